# SPDX-License-Identifier: Apache-2.0
"""What has a place in the image follows it through the resamplings of training."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from bundle.geometry import transformed
from bundle.tasks import Masks
from bundle.transforms import RandGeometryd, ShrinkSampled
from bundle.vocabulary import Organs

SIDE = 96
POINT = (41.0, 63.5)
MOVES: dict[str, dict[str, Any]] = {
    "letterbox": {},
    "flip": {"flip_prob": 1.0},
    "rotation": {"affine_prob": 1.0, "rotate_range": 0.8},
    "zoom": {"affine_prob": 1.0, "zoom_range": 0.3},
    "shift": {"affine_prob": 1.0, "translate_range": 10},
    "crop": {"crop_prob": 1.0, "crop_margin": (0.3, 1.0)},
    "all": {
        "crop_prob": 1.0, "crop_margin": (0.5, 1.0), "flip_prob": 1.0, "affine_prob": 1.0, "rotate_range": 0.35,
        "zoom_range": 0.2, "translate_range": 5,
    },
}  # fmt: skip


class Spot:
    """A task whose items have a point."""

    placed = True

    def move(self, item: Mapping[str, Any], matrix: Tensor) -> dict[str, Any]:
        return {**item, "spot": transformed(item["spot"], matrix)}


def sample(height: int, width: int, channels: int = 1) -> dict[str, Any]:
    """A bright spot round the point, and a mask of it that is not in its middle."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    spot = torch.exp(-((rows - POINT[0]) ** 2 + (columns - POINT[1]) ** 2) / (2 * 4.0**2))
    label = torch.zeros(1, height, width, dtype=torch.uint8)
    label[:, 20:55, 45:80] = 1
    point = torch.tensor([POINT], dtype=torch.float64)
    return {"image": spot.expand(channels, -1, -1).contiguous(), "label": label, "spot": point, "type": "whole"}


def bright(image: Tensor) -> Tensor:
    """Row and column of the middle of what is bright."""
    weight = image[0].double() / image[0].double().sum()
    rows, columns = (torch.arange(n) for n in weight.shape)
    return torch.stack([(weight.sum(1) * rows).sum(), (weight.sum(0) * columns).sum()])


@pytest.mark.parametrize("shape", [(90, 131), (131, 90), (97, 97)])
@pytest.mark.parametrize("name", MOVES)
def test_a_point_stays_on_what_it_marks(name: str, shape: tuple[int, int]) -> None:
    for seed in range(5):
        item = sample(*shape)
        item["image"] = (item["image"] * 255).round().to(torch.uint8)
        moved = RandGeometryd(SIDE, tasks=[Spot()], **MOVES[name]).set_random_state(seed)(item)
        assert (moved["type"] == "local") == ("crop_prob" in MOVES[name])
        assert torch.allclose(bright(moved["image"]), moved["spot"][0], atol=0.12)
        assert item["spot"].tolist() == [list(POINT)]  # the kept sample stays


def test_a_flip_mirrors_the_point() -> None:
    item = {**sample(96, 96), "image": torch.zeros(1, 96, 96, dtype=torch.uint8)}
    moved = RandGeometryd(SIDE, tasks=[Spot()], flip_prob=1.0)(item)
    assert moved["spot"][0].tolist() == pytest.approx([POINT[0], 95 - POINT[1]])


@pytest.mark.parametrize(("shape", "longest"), [((90, 131), 64), ((131, 90), 100), ((131, 97), 33)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_point_follows_where_the_sample_is_shrunk(shape: tuple[int, int], longest: int, channels: int) -> None:
    kept = ShrinkSampled(longest, tasks=[Spot()])(sample(*shape, channels))
    assert max(kept["image"].shape[1:]) == longest
    assert torch.allclose(bright(kept["image"]), kept["spot"][0], atol=0.05)


def test_a_small_sample_keeps_its_point() -> None:
    kept = ShrinkSampled(200, tasks=[Spot()])(sample(90, 131))
    assert kept["spot"][0].tolist() == pytest.approx(list(POINT))


def test_tasks_without_places_are_not_held() -> None:
    """The cache tells entries by what the transforms hold: another loss weight is no other sample."""
    organs = Organs({"breast": {"structures": ["lesion"]}, "indis": {}})
    assert not Masks(organs).placed
    assert ShrinkSampled(200, tasks=[Masks(organs), Spot()]).tasks[0].placed
    assert len(RandGeometryd(SIDE, tasks=[Masks(organs), Spot()]).tasks) == 1
