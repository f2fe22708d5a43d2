# SPDX-License-Identifier: Apache-2.0
"""What is seen of a frame, and the way of what is found in it back onto the frame, to the pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from bundle.data.phantom.frames import make_screen
from bundle.geometry import Geometry
from bundle.tasks import Decoded, Masks
from bundle.transforms import Letterboxd, SelectViewd
from bundle.transforms.letterbox import WINDOWS
from bundle.vocabulary import Organs

ORGANS = Organs({"breast": {"structures": ["lesion"]}, "indis": {}})


def screen_item(kind: str, seed: int = 4) -> tuple[dict[str, Any], list[np.ndarray]]:
    screen = make_screen(kind, np.random.default_rng([seed, 2]))
    image = torch.from_numpy(screen.pixels.copy()).permute(2, 0, 1).float() / 255
    return {"image": MetaTensor(image)}, screen.sectors


def test_the_sector_is_left_and_black_is_beside_it() -> None:
    item, (truth,) = screen_item("convex")
    seen = SelectViewd("image", crop_sector=True)(item)["image"]
    (top, left, bottom, right), image = seen.meta[WINDOWS][0], seen.as_tensor()
    assert image.shape == item["image"].shape
    assert not image[:, :top].any()
    assert not image[:, :, right:].any()
    inside = torch.from_numpy(truth)
    assert (image != item["image"].as_tensor())[:, inside].float().mean() < 0.03
    assert truth[top:bottom, left:right].sum() > 0.98 * truth.sum()


def test_nothing_changes_unless_it_is_asked_for() -> None:
    item, _ = screen_item("touching")
    for asked in ({}, {"crop_sector": "false"}):
        assert SelectViewd("image", **asked)(item)["image"] is item["image"]
    guided = {**item, "guidance": {1: {"wanted": [(3, 4)]}}}
    assert SelectViewd("image", crop_sector=True, split_panels=True)(guided)["image"] is item["image"]
    with pytest.raises(ValueError, match="crop_sector"):
        SelectViewd("image", crop_sector="sometimes")


def test_one_image_is_not_split_and_two_are_noted() -> None:
    item, _ = screen_item("linear")
    assert not SelectViewd("image", split_panels=True)(item)["image"].meta[WINDOWS]
    item, truths = screen_item("touching")
    seen = SelectViewd("image", split_panels=True)(item)["image"]
    assert len(seen.meta[WINDOWS]) == len(truths) == 2
    assert seen.meta["notes"] == "2 images side by side, each analyzed by itself"


@pytest.mark.parametrize("windows", [[[5, 7, 39, 60]], [[5, 7, 37, 23], [3, 30, 51, 94]]])
def test_windows_come_back_to_their_pixels(windows: list[list[int]]) -> None:
    """Squares of 64 in which each window has its own size: the inverse is exact where nothing is resampled."""
    random = torch.rand(2, 60, 100)
    image = MetaTensor(random, meta={WINDOWS: windows})
    transform = Compose([Letterboxd("image", 64)])
    item = transform({"image": image})
    assert item["image"].shape == (2, 64 * len(windows), 64)
    back = transform.inverse(item)["image"].as_tensor()
    seen = torch.zeros(60, 100, dtype=torch.bool)
    for top, left, bottom, right in windows:
        seen[top:bottom, left:right] = True
    assert back.shape == random.shape
    assert not back[:, ~seen].any()
    ramps = torch.stack(torch.meshgrid(torch.linspace(0, 1, 60), torch.linspace(0, 1, 100), indexing="ij"))
    ramps_back = transform.inverse(transform({"image": MetaTensor(ramps, meta={WINDOWS: windows})}))["image"]
    assert (ramps_back.as_tensor() - ramps)[:, seen].abs().max() < 0.02


def test_an_invertd_of_monai_brings_a_mask_back() -> None:
    transform = Compose([Letterboxd("image", 64)])
    item = transform({"image": MetaTensor(torch.rand(1, 60, 100), meta={WINDOWS: [[10, 20, 50, 84]]})})
    item["pred"] = MetaTensor(torch.ones(1, 64, 64))
    mask = Invertd("pred", transform, "image", nearest_interp=True)(item)["pred"]
    assert mask.shape == (1, 60, 100)
    assert mask.sum() == 40 * 64
    assert mask[0, 10:50, 20:84].all()


@pytest.mark.parametrize("count", [1, 2])
def test_masks_points_and_maps_land_on_the_frame(count: int) -> None:
    """A frame whose windows are as large as the square, so that a square's pixel is a pixel of the frame."""
    windows = [[11, 3, 43, 35], [20, 50, 52, 82]][:count]
    transform = Compose([Letterboxd("image", 32)])
    item = transform({"image": MetaTensor(torch.rand(3, 60, 91), meta={WINDOWS: windows})})
    logits, expected = torch.zeros(count, 2, 32, 32), torch.zeros(60, 91, dtype=torch.uint8)
    logits[:, 0] = 1.0
    for number, (top, left, _, _) in enumerate(windows):
        logits[number, 1, 4 + number : 9, 20:27] = 5.0
        expected[top + 4 + number : top + 9, left + 20 : left + 27] = 1
    task = Masks(ORGANS, maps=True)
    found = Decoded("pred", transform, [task])({**item, "pred": {"seg": logits if count > 1 else logits[0]}})
    assert torch.equal(found["pred"].as_tensor()[0], expected)
    assert (found["geometry"].shape, found["geometry"].part) == ((60, 91), None)
    maps = found["found"]["seg"].maps()
    assert maps.shape == (2, 60, 91)
    assert torch.allclose(maps.sum(0), torch.ones(60, 91))
    assert torch.equal(maps[1] > 0.5, expected > 0)
    assert maps[0, 0, 0] == 1


def test_points_of_a_window_are_points_of_the_frame() -> None:
    place = Geometry((60, 100), 64, part=(10, 20, 42, 84))
    points = torch.tensor([[10.0, 20.0], [41.0, 83.0], [20.5, 33.25]])
    assert torch.allclose(place.to_native(place.to_square(points)), points, atol=1e-5)
    assert torch.allclose(place.to_square(points[:1]), torch.tensor([[16.0, 0.0]]))
    assert place.nearest_seen(torch.tensor([[0.0, 99.0]])).tolist() == [[9.5, 83.5]]
