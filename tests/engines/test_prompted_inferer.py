# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.engines import PromptedInferer
from bundle.engines.inferer import join_guided
from bundle.guidance import draw_guidance
from bundle.tasks import Masks
from bundle.vocabulary import Organs, encode_prompt
from tests.engines.small import POSITIONS, TASKS, make_network


def inferer() -> PromptedInferer:
    return PromptedInferer(TASKS, POSITIONS)


def shares(outputs: dict[str, torch.Tensor]) -> list[list[bool]]:
    """Which structures have any probability, per image."""
    return (outputs["seg"].softmax(1).amax((2, 3)) > 0).tolist()


def test_structures_that_the_organ_does_not_have_get_no_probability() -> None:
    network, image = make_network().eval(), torch.rand(3, 3, 32, 32)
    prompt = torch.tensor([encode_prompt({"position": p}, POSITIONS) for p in ("breast", "lung", "unknown")])
    assert shares(inferer()(image, network, prompt=prompt)) == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]


def test_the_prompt_may_come_with_the_image() -> None:
    """All that MONAI Label hands to an inferer is the image."""
    network = make_network().eval()
    code = torch.tensor(encode_prompt({"position": "breast"}, POSITIONS))
    image = MetaTensor(torch.rand(3, 32, 32), meta={"prompt": code})
    assert shares(inferer()(image[None], network)) == [[True, True, False]]
    assert shares(inferer()(torch.rand(2, 3, 32, 32), network)) == [[True, True, True]] * 2


def logits(*probabilities: list[float]) -> torch.Tensor:
    """Logits (C, 1, W) of the probabilities of W pixels."""
    return torch.tensor(probabilities).T[:, None].log()


def join(
    automatic: torch.Tensor,
    guided: list[torch.Tensor],
    slots: list[int],
    *,
    wanted: list[float] | None = None,
    unwanted: list[float] | None = None,
    allowed: list[bool] | None = None,
) -> torch.Tensor:
    """Joined probabilities (W, C); wanted and unwanted are those of the slot without a name."""
    guidance = torch.zeros(len(automatic), 2, *automatic.shape[1:])
    for channel, values in enumerate((wanted, unwanted)):
        guidance[0, channel, 0] = torch.tensor(values or [0.0])
    joined = join_guided(
        automatic,
        torch.stack(guided),
        torch.tensor(slots),
        guidance=guidance,
        allowed=torch.tensor(allowed or [True] * len(automatic)),
    )
    return joined.exp()[:, 0].T  # they are normalized: no softmax


def test_a_guided_structure_takes_its_share_and_the_others_divide_the_rest() -> None:
    joined = join(logits([0.5, 0.3, 0.2]), [logits([0.2, 0.6, 0.2])], [1])
    # against the background alone: 0.6 / 0.8; the rest as automatic without the lesion: 5 to 2
    torch.testing.assert_close(joined, torch.tensor([[0.25 * 5 / 7, 0.75, 0.25 * 2 / 7]]))


def test_a_guided_structure_wins_and_loses_by_its_margin() -> None:
    automatic = logits([0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3])
    guided = torch.tensor([[0.0, 0.0, 0.0], [30.0, -30.0, -30.0], [9.0, 9.0, 9.0]])[:, None]
    joined = join(automatic, [guided], [1])
    expected = [[0, 1, 0], [0.5, 0, 0.5], [0.4, 0, 0.6]]
    torch.testing.assert_close(joined, torch.tensor(expected))


@pytest.mark.parametrize("slots", [[1, 2], [2, 1]])
def test_two_guided_structures_compete(slots: list[int]) -> None:
    passes = {1: logits([0.1, 0.4, 0.5]), 2: logits([0.3, 0.6, 0.1])}  # 4 to 1 and 1 to 3 against the background
    joined = join(logits([0.1, 0.8, 0.1]), [passes[slot] for slot in slots], slots)
    total = 1 + 4 + 1 / 3
    torch.testing.assert_close(joined, torch.tensor([[1 / total, 4 / total, 1 / 3 / total]]))


def test_joined_probabilities_sum_to_one() -> None:
    torch.manual_seed(0)
    joined = join_guided(
        5 * torch.randn(4, 8, 6),
        5 * torch.randn(3, 4, 8, 6),
        torch.tensor([0, 1, 3]),
        guidance=torch.rand(4, 2, 8, 6),
        allowed=torch.ones(4, dtype=torch.bool),
    )
    torch.testing.assert_close(joined.exp().sum(0), torch.ones(8, 6))
    torch.testing.assert_close(joined.softmax(0), joined.exp())


SEEN = logits([0.1, 0.1, 0.8], [0.1, 0.7, 0.2], [0.1, 0.8, 0.1])  # a nerve in the first pixel, a lesion in two


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ({"wanted": [1.0, 0.0, 0.0]}, 2),
        ({"wanted": [0.0, 1.0, 0.0]}, 1),
        ({"wanted": [1.0, 0.0, 0.0], "unwanted": [1.0, 0.0, 0.0]}, 2),
        ({"unwanted": [0.0, 1.0, 1.0]}, 2),  # a box round the nerve
        ({"unwanted": [1.0, 0.0, 0.0]}, 1),
        ({"wanted": [1.0, 0.0, 0.0], "allowed": [True, True, False]}, 1),
        ({"wanted": [0.0, 1.0, 0.0], "allowed": [True, False, True]}, 2),
    ],
)
def test_a_structure_without_a_name_is_the_one_found_where_it_is_wanted(place: dict[str, Any], found: int) -> None:
    automatic = logits(*[[0.4, 0.3, 0.3]] * 3)
    share = join(automatic, [SEEN], [found])[:, found]
    probabilities = join(automatic, [SEEN], [0], **place)
    torch.testing.assert_close(probabilities[:, [0, found]], torch.stack([1 - share, share], 1))  # and nothing else


def test_a_structure_that_the_organ_does_not_have_is_not_guessed_where_nothing_is_found() -> None:
    nothing = torch.tensor([0.0, -200.0, -200.0])[:, None, None]  # no probability in float32
    automatic, allowed = logits([0.4, 0.3, 0.3]), [True, False, True]
    guessed = join(automatic, [nothing], [0], wanted=[0.5], allowed=allowed)  # a former mask
    torch.testing.assert_close(guessed[:, 2], join(automatic, [nothing], [2])[:, 2])


@pytest.mark.parametrize(("channel", "sure"), [("wanted", -9.0), ("unwanted", 9.0)])
def test_the_middle_of_a_click_is_what_the_user_says(channel: str, sure: float) -> None:
    """The network is sure of the opposite everywhere."""
    said = draw_guidance((20, 30), radius=5.0, **{channel: [(8.0, 11.0)]})
    guided = torch.stack([torch.zeros(20, 30), torch.full((20, 30), sure)])[None]
    guidance = torch.zeros(2, 2, 20, 30)
    guidance[1] = said
    joined = join_guided(
        torch.zeros(2, 20, 30), guided, torch.tensor([1]), guidance=guidance, allowed=torch.tensor([True, True])
    )
    changed = joined.argmax(0) == int(channel == "wanted")
    assert changed[8, 11]
    assert joined.exp()[int(channel == "wanted"), 8, 11] == pytest.approx(0.982, abs=1e-3)  # the sigmoid of 4
    rows, columns = np.nonzero(changed.numpy())
    assert sorted(zip(rows - 8, columns - 11, strict=True)) == [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]


def test_nothing_lies_outside_a_box_and_a_former_mask_forces_nothing() -> None:
    ones = torch.stack([torch.zeros(20, 30), torch.full((20, 30), 9.0)])[None]
    guidance = torch.zeros(2, 2, 20, 30)
    guidance[1] = draw_guidance((20, 30), radius=5.0, box=(5, 6, 14, 20), mask=torch.ones(20, 30))
    arguments = {"guidance": guidance, "allowed": torch.tensor([True, True])}
    found = join_guided(torch.zeros(2, 20, 30), ones, torch.tensor([1]), **arguments).argmax(0)
    rows, columns = np.nonzero(found.numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5 - 3, 14 + 3, 6 - 3, 20 + 3)
    assert not join_guided(torch.zeros(2, 20, 30), -ones, torch.tensor([1]), **arguments).argmax(0).any()


def test_an_organ_without_structures_may_show_one_to_who_clicks() -> None:
    automatic, share = logits(*[[1.0, 1e-6, 1e-6]] * 3), (SEEN[2] - SEEN[0]).sigmoid()[0]
    found = join(automatic, [SEEN], [0], wanted=[1.0, 0.0, 0.0], allowed=[True, False, False])
    torch.testing.assert_close(found[:, 2], share)


def test_a_named_pass_goes_before_one_without_a_name() -> None:
    automatic, named = logits(*[[0.4, 0.3, 0.3]] * 3), logits(*[[0.5, 0.4, 0.1]] * 3)
    both = join(automatic, [SEEN, named], [0, 1], wanted=[0.0, 1.0, 0.0])
    torch.testing.assert_close(both, join(automatic, [named], [1]))


def test_guided_structures_get_a_pass_of_their_own() -> None:
    network = make_network(guidance_channels=2).eval()
    torch.nn.init.normal_(network.encoder.backbone.stem_0.guidance.weight)
    for name, parameter in network.named_parameters():
        if "prompt" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    image, guidance = torch.rand(4, 3, 32, 64), torch.zeros(4, 3, 2, 32, 64)
    prompt = torch.tensor([encode_prompt({"position": p}, POSITIONS) for p in ("breast", "lung", "unknown", "breast")])
    guidance[1, 2, 0, 4:9, 20:25] = 1  # a click on a nerve, which a lung does not have
    guidance[2, 0, 1, :, 30:] = 1  # a box round something
    guidance[2, 1, 0, 8:12, 8:12] = 0.5  # a former mask of the lesion
    given = torch.cat([image, guidance.flatten(1, 2)], 1)
    outputs = inferer()(given, network, prompt=prompt)
    automatic = inferer()(image, network, prompt=prompt)
    for name in ("seg", "cls_breast"):
        torch.testing.assert_close(outputs[name][[0, 3]], automatic[name][[0, 3]])
    torch.testing.assert_close(outputs["cls_breast"], automatic["cls_breast"])

    def guided(row: int, slot: int) -> torch.Tensor:
        found: torch.Tensor = network(torch.cat([image[row], guidance[row, slot]])[None], prompt[row : row + 1])[0]
        return found

    probabilities, nerve = outputs["seg"].softmax(1), guided(1, 2)
    share = (nerve[2] - nerve[0]).sigmoid()
    torch.testing.assert_close(probabilities[1], torch.stack([1 - share, 0 * share, share]), atol=1e-5, rtol=1e-4)
    expected = join_guided(
        automatic["seg"][2],
        torch.stack([guided(2, 0), guided(2, 1)]),
        torch.tensor([0, 1]),
        guidance=guidance[2],
        allowed=torch.tensor([True, True, False]),  # the lesion is named, which is the breast's
    )
    torch.testing.assert_close(probabilities[2], expected.softmax(0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(probabilities[1:3], automatic["seg"][1:3].softmax(1), atol=1e-3)


@pytest.mark.parametrize(
    ("position", "slot", "shown"),
    [
        ("unknown", 1, [True, True, False, False, False]),  # a lesion is the breast's
        ("unknown", 2, [True, False, True, True, False]),  # a nerve the limb's, which also has vessels
        ("unknown", 4, [True, False, False, False, True]),  # no organ's
        ("limb", 1, [True, True, True, True, False]),  # named against the position
        ("unknown", 0, None),  # one structure, whichever
    ],
)
def test_who_names_a_structure_names_its_organ(position: str, slot: int, shown: list[bool] | None) -> None:
    shown_by = {"breast": ["lesion"], "limb": ["nerve", "vessel"], "indis": ["bone"]}
    organs = Organs({organ: {"structures": names} for organ, names in shown_by.items()})
    positions = organs.positions
    network = make_network(guidance_channels=2, structures=organs.structures, positions=positions).eval()
    inferer = PromptedInferer([Masks(organs)], positions)
    guidance = torch.zeros(1, 5, 2, 32, 32)
    guidance[0, slot, 0, 8:19, 8:19] = 1
    given = torch.cat([torch.rand(1, 3, 32, 32), guidance.flatten(1, 2)], 1)
    prompt = torch.tensor([encode_prompt({"position": position}, positions)])
    (found,) = shares(inferer(given, network, prompt=prompt))
    assert found == shown if shown else sum(found) == 2


def test_each_image_is_searched_where_its_own_user_clicked() -> None:
    network, image = make_network(guidance_channels=2).eval(), torch.rand(1, 3, 32, 32)
    seg = network(image)[0].detach()
    lead = (seg[1] - seg[2]).flatten()
    seg[1] -= (middle := (lead.max() + lead.min()) / 2)
    with torch.no_grad():
        network.heads["seg"].refine.bias[1] -= middle  # of lesion over nerve: here the one leads, there the other
    guidance = torch.zeros(2, 3, 2, 32, 32)
    guidance[0, 0, 0].view(-1)[lead.argmax()] = 1
    guidance[1, 0, 0].view(-1)[lead.argmin()] = 1
    given = torch.cat([image.expand(2, -1, -1, -1), guidance.flatten(1, 2)], 1)
    probabilities = inferer()(given, network)["seg"].softmax(1)
    for row, structure in enumerate((1, 2)):  # against the background alone; this network is blind to guidance
        expected = (seg[structure] - seg[0]).sigmoid()
        torch.testing.assert_close(probabilities[row, structure], expected, atol=1e-5, rtol=1e-4)


def test_empty_guidance_is_none() -> None:
    """Clicks that all fell beside the image."""
    network, image = make_network(guidance_channels=2).eval(), torch.rand(2, 3, 32, 32)
    given = MetaTensor(torch.cat([image, torch.zeros(2, 6, 32, 32)], 1))
    for name, value in inferer()(image, network).items():
        assert torch.equal(inferer()(given, network)[name], value), name
