# SPDX-License-Identifier: Apache-2.0
"""From the network's outputs to what was found on the image's own grid."""

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, Resized
from torch import Tensor

from bundle.tasks import Decoded, Masks, class_tasks
from bundle.tasks.decoding import activated
from bundle.transforms import Letterboxd
from bundle.vocabulary import Organs

ORGANS = Organs(
    {"limb": {"structures": list("abcde")}, "lung": {"classes": ["healthy", "ill"]}, "liver": {}, "indis": {}}
)
TASKS = [Masks(ORGANS), *class_tasks(ORGANS)]


def decode(preprocessing: Compose, item: dict[str, Any], probabilities: Tensor) -> MetaTensor:
    """The label map of an item whose masks are so probable."""
    names = [f"s{n}" for n in range(1, len(probabilities))]
    tasks = [Masks(Organs({"limb": {"structures": names}, "indis": {}}))]
    found: MetaTensor = Decoded("pred", preprocessing, tasks)(
        {**item, "pred": {"seg": probabilities.clamp(min=1e-9).log()}}
    )["pred"]
    return found


@pytest.mark.parametrize(("name", "value"), [("seg", float("nan")), ("cls_lung", float("inf"))])
def test_a_model_that_gives_no_finite_number_is_named(name: str, value: float) -> None:
    pred = {"seg": torch.zeros(6, 4, 4), "cls_lung": torch.zeros(2)}
    assert activated(TASKS, pred)["cls_lung"].tolist() == [0.5, 0.5]
    pred[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"must give finite numbers, got NaN or infinity in {name}; use other weights"):
        activated(TASKS, pred)


def test_logits_become_probabilities_and_outputs_of_no_task_are_left_out() -> None:
    logits = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).log1p().reshape(6, 1, 1)
    values = activated(TASKS, {"seg": logits, "cls_lung": torch.zeros(2), "age": torch.zeros(1)})
    assert values["seg"].flatten().tolist() == pytest.approx([1 / 7, 2 / 7, 1 / 7, 1 / 7, 1 / 7, 1 / 7])
    assert set(values) == {"seg", "cls_lung"}


def test_an_item_gets_what_was_found_with_its_geometry() -> None:
    preprocessing = Compose([Letterboxd("image", 8)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, 4, 8)), "spacing": torch.tensor([0.5, 0.25])})
    pred = {"seg": torch.zeros(6, 8, 8), "cls_lung": torch.tensor([0.0, 1.0])}
    found = Decoded("pred", preprocessing, TASKS)({**item, "pred": pred, "position": "lung"})
    assert (found["geometry"].shape, found["geometry"].side, found["geometry"].spacing) == ((4, 8), 8, (0.5, 0.25))
    assert found["asked"].position == "lung"
    assert found["found"]["cls_lung"]["probabilities"].tolist() == pytest.approx([0.268941, 0.731059], abs=1e-6)
    assert found["found"]["cls_lung"]["shown"]
    assert torch.equal(found["found"]["seg"].label_map[None], found["pred"].as_tensor())


def test_without_masks_the_label_map_is_empty() -> None:
    preprocessing = Compose([Letterboxd("image", 8)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, 4, 8))})
    found = Decoded("pred", preprocessing, TASKS[1:])({**item, "pred": {"cls_lung": torch.zeros(2)}})
    assert (found["pred"].shape, found["pred"].dtype, int(found["pred"].max())) == ((1, 4, 8), torch.uint8, 0)
    assert not found["geometry"].known


@pytest.mark.parametrize("size", [(50, 33), (7, 64), (20, 20)])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 8.0])
def test_the_label_map_is_the_most_probable_structure_of_all(size: tuple[int, int], sharpness: float) -> None:
    preprocessing = Compose([Letterboxd("image", 20)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, *size))})
    torch.manual_seed(0)
    probabilities = (sharpness * torch.randn(6, 20, 20)).softmax(0)
    probabilities[3] = 0  # never the most probable one
    probabilities /= probabilities.sum(0)
    invert = Invertd("pred", preprocessing, "image", nearest_interp=False)
    inverted = invert({**item, "pred": MetaTensor(probabilities)})["pred"].as_tensor()
    for _ in range(2):  # the image's history outlives the call
        found = decode(preprocessing, item, probabilities)
    assert found.shape == (1, *size)
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found.affine, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(inverted.gather(0, found.as_tensor().long())[0], inverted.amax(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [[], [Resized("image", 4)], [Flipd("image"), Letterboxd("image", 4)]])
def test_pixels_that_move_otherwise_are_refused(steps: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"one Letterboxd and no other transform to be undone, got \["):
        Decoded("pred", Compose(steps), TASKS)


def test_what_leads_in_the_border_alone_is_nowhere() -> None:
    preprocessing = Compose([Letterboxd("image", 8)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, 4, 8))})
    pred = torch.zeros(3, 8, 8)
    pred[0], pred[1, 0], pred[2, 2, 7] = 0.5, 0.9, 0.9
    found = decode(preprocessing, item, pred)[0]
    assert found.tolist() == [[0] * 7 + [2], *[[0] * 8] * 3]


def test_of_equal_structures_the_first_is_taken() -> None:
    preprocessing = Compose([Letterboxd("image", 4)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, 4, 4))})
    for weights, expected in (([0.25] * 4, 0), ([0.1, 0.1, 0.4, 0.4], 2)):
        pred = torch.tensor(weights)[:, None, None].expand(4, 4, 4)
        assert decode(preprocessing, item, pred).unique().tolist() == [expected]
