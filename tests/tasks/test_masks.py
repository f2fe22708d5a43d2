# SPDX-License-Identifier: Apache-2.0
"""Masks: what is trained, what a prompt leaves, and the most probable structure of each pixel of the image."""

import math
from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.nn.functional import interpolate

from bundle.geometry import Geometry
from bundle.losses import PartialLabelLoss
from bundle.tasks import Asked, Masks
from bundle.vocabulary import Organs

SHOWN: dict[str, Any] = {"breast": ["lesion"], "head": ["head"], "limb": ["nerve", "vessel"], "lung": [], "indis": []}
ORGANS = Organs({organ: {"structures": names} for organ, names in SHOWN.items()})
MASKS = Masks(ORGANS)


def criterion() -> DiceCELoss:
    return DiceCELoss(softmax=True, to_onehot_y=True, lambda_dice=0.0)


def test_the_loss_is_that_of_partial_labels_with_or_without_what_is_absent() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 5, 4, 4), torch.randint(0, 2, (2, 1, 4, 4))
    labeled = torch.tensor([[True, True, False, False, False]] * 2)
    target = {"label": label, "labeled": labeled}
    shown = [[1], [2], [3, 4], []]
    for absent, organs in ((True, shown), (False, [])):
        expected = PartialLabelLoss(criterion(), organs)(logits, label, labeled)
        assert torch.equal(Masks(ORGANS, criterion=criterion(), absent=absent).loss(logits, target), expected)


def test_uniform_logits_cost_their_logarithm() -> None:
    """A set of lesions: of five equal probabilities two are possible, of which one is right."""
    target = {"label": torch.ones(1, 1, 2, 2), "labeled": torch.tensor([[True, True, False, False, False]])}
    loss = Masks(ORGANS, criterion=criterion()).loss(torch.zeros(1, 5, 2, 2), target)
    assert loss.item() == pytest.approx(math.log(2) + math.log(5 / 2))


def test_samples_without_a_mask_are_not_labeled() -> None:
    item = {"label": torch.ones(1, 2, 2), "labeled": [True, False, True, False, False]}
    target = MASKS.target(item)
    batch = {name: torch.stack([value, torch.zeros_like(value)]) for name, value in target.items()}
    assert MASKS.labeled(batch).tolist() == [True, False]
    assert MASKS.labeled(MASKS.without(batch)).tolist() == [False, False]
    assert MASKS.has(item)
    assert not MASKS.has({**item, "labeled": [False] * 5})
    assert MASKS.has({"label": ["a.png"]})  # of MONAI Label, without a table
    assert not MASKS.has({"label": []})


@pytest.mark.parametrize(
    ("position", "left"),
    [
        ("breast", [0, 1]), ("limb", [0, 3, 4]), ("lung", [0]), ("indis", [0, 1, 2, 3, 4]),
        ("unknown", [0, 1, 2, 3, 4]), ("", [0, 1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_a_position_leaves_what_its_organ_shows(position: str, left: list[int]) -> None:
    logits = torch.zeros(1, 5, 2, 2)
    probabilities = MASKS.activate(MASKS.restrict(logits, [position])[0])
    expected = torch.zeros(5)
    expected[left] = 1 / len(left)
    torch.testing.assert_close(probabilities, expected[:, None, None].expand(5, 2, 2))
    assert (probabilities[expected == 0] == 0).all()  # exactly


def test_who_names_a_structure_leaves_those_of_its_organ() -> None:
    assert MASKS.beside(3).nonzero().flatten().tolist() == [0, 3, 4]
    assert MASKS.beside(1).nonzero().flatten().tolist() == [0, 1]


def decode(probabilities: Tensor, place: Geometry, **asked: Any) -> Tensor:
    return MASKS.decode({"seg": probabilities}, place, Asked(**asked)).label_map


@pytest.mark.parametrize("shape", [(30, 50), (7, 64), (20, 20)])
def test_the_most_probable_structure_is_taken_on_the_images_own_grid(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    place, probabilities = Geometry(shape, 20), (2 * torch.randn(5, 20, 20)).softmax(0)
    inside = probabilities[(slice(None), *place.window)]
    native = interpolate(inside[None], shape, mode="bilinear")[0]
    found = decode(probabilities, place)
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, shape)
    chosen = native.gather(0, found[None].long())[0]
    torch.testing.assert_close(chosen, native.amax(0), rtol=0, atol=1e-6)
    assert len(found.unique()) > 2


def test_what_leads_nowhere_inside_the_window_is_background() -> None:
    probabilities = torch.zeros(5, 8, 8)
    probabilities[0], probabilities[1, :2] = 0.5, 0.9  # in the border above the image alone
    assert not decode(probabilities, Geometry((4, 8), 8)).any()


def test_a_position_that_was_found_leaves_what_its_organ_shows() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.0])[:, None, None].expand(5, 4, 4)
    place = Geometry((4, 4), 4)
    assert decode(probabilities, place).unique().tolist() == [2]
    assert decode(probabilities, place, position="limb", routed=True).unique().tolist() == [3]
    assert decode(probabilities, place, position="lung", routed=True).unique().tolist() == [0]
    assert decode(probabilities, place, position="limb").unique().tolist() == [2]  # the inferer has restricted these


def test_clicks_and_boxes_hold_to_the_pixel() -> None:
    place = Geometry((40, 60), 20)
    lesion, nothing = torch.zeros(5, 20, 20), torch.zeros(5, 20, 20)
    lesion[1], nothing[0] = 1.0, 1.0
    said = {"wanted": [], "unwanted": [(9.0, 17.0)], "box": (5, 10, 30, 40), "mask": None}
    found = decode(lesion, place, guidance={1: said})
    rows, columns = (found == 1).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 30, 10, 40)
    assert found[9, 17] == 0
    clicked = decode(nothing, place, guidance={1: {**said, "wanted": [(9.0, 17.0)], "unwanted": [], "box": None}})
    assert clicked[9, 17] == 1


def test_maps_are_kept_where_they_are_asked_for() -> None:
    place, probabilities = Geometry((40, 60), 20), torch.rand(5, 20, 20).softmax(0)
    assert MASKS.maps_of(MASKS.decode({"seg": probabilities}, place, Asked())) is None
    keeping = Masks(ORGANS, maps="true")
    kept = keeping.maps_of(keeping.decode({"seg": probabilities}, place, Asked()))
    assert kept is not None
    names, maps = kept
    assert names == ["background", "lesion", "head", "nerve", "vessel"]
    assert tuple(maps.shape) == (5, 40, 60)
    torch.testing.assert_close(maps.sum(0), torch.ones(40, 60))


def test_a_withheld_image_has_background_throughout() -> None:
    found = MASKS.withheld(Geometry((3, 4), 8))
    assert torch.equal(found.label_map, torch.zeros(3, 4, dtype=torch.uint8))
    assert MASKS.captions(found) == []


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match=r"protocol must be one of \['native', 'paper'\], got 'papr'"):
        Masks(ORGANS, protocol="papr")
