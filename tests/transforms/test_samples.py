# SPDX-License-Identifier: Apache-2.0
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from bundle.transforms import GreyToRGBd, Letterboxd, RandGeometryd, ShrinkSampled

SIDE = 64


def smooth(height: int, width: int, channels: int = 1) -> Tensor:
    noise = torch.rand(1, channels, 6, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]


def sample(height: int = 100, width: int = 128) -> dict[str, Any]:
    """Kept sample with a bright spot whose mask is 1, left above the middle."""
    image = torch.zeros(1, height, width, dtype=torch.uint8)
    label = torch.zeros(1, height, width, dtype=torch.uint8)
    image[:, 10:30, 20:50], label[:, 10:30, 20:50] = 200, 1
    return {"image": image, "label": label, "type": "whole"}


def moved(seed: int = 0, item: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return RandGeometryd(SIDE, **options).set_random_state(seed)(item or sample())


def center(mask: Tensor) -> list[float]:
    return [float(v) for v in mask.nonzero().float().mean(0)[-2:]]


def test_what_is_kept_is_small_and_exact() -> None:
    grey = smooth(300, 400).expand(3, -1, -1).contiguous()
    label = (grey[:1] > 0.5).to(torch.uint8) * 3
    kept = ShrinkSampled(200)({"image": MetaTensor(grey), "label": MetaTensor(label), "cls": [1]})
    assert (kept["image"].dtype, kept["image"].shape) == (torch.uint8, (1, 150, 200))
    assert (kept["label"].dtype, kept["label"].shape) == (torch.uint8, (1, 150, 200))
    assert not isinstance(kept["image"], MetaTensor)
    assert not isinstance(kept["label"], MetaTensor)
    assert set(kept["label"].unique().tolist()) == {0, 3}
    assert ((kept["image"] > 127) == (kept["label"] > 0)).float().mean() > 0.98
    assert kept["cls"] == [1]


def test_small_and_color_images_are_kept_as_they_are() -> None:
    color = (smooth(60, 50, 3) * 255).round() / 255
    kept = ShrinkSampled(200)({"image": color, "label": torch.zeros(1, 60, 50)})
    assert torch.equal(kept["image"], (color * 255).round().to(torch.uint8))


@pytest.mark.parametrize("shape", [(300, 400), (400, 301), (128, 128), (90, 128), (500, 350)])
def test_without_random_moves_it_is_the_letterbox_of_inference(shape: tuple[int, int]) -> None:
    image = smooth(*shape).expand(3, -1, -1).contiguous()
    inference = Letterboxd("image", SIDE)({"image": MetaTensor(image)})
    kept = ShrinkSampled(2 * SIDE)({"image": image, "label": (image[:1] > 0.5).to(torch.uint8)})
    item = moved(item=kept)
    assert item["image"].dtype == torch.float32
    difference = (item["image"] - inference["image"].as_tensor()[:1]).abs()
    assert difference.mean() < 0.003
    assert ((item["image"] > 0.5) == (item["label"] > 0)).float().mean() > 0.98


def test_a_flip_changes_left_and_right() -> None:
    plain, flipped = moved(), moved(flip_prob=1.0)
    assert torch.equal(flipped["label"], plain["label"].flip(2))
    assert torch.allclose(flipped["image"], plain["image"].flip(2), atol=1e-6)


def test_image_and_mask_move_together_within_the_ranges() -> None:
    start = center(moved()["label"])
    for seed in range(20):
        item = moved(seed, affine_prob=1.0, translate_range=6)
        assert (item["image"] > 0.4).eq(item["label"] > 0).float().mean() > 0.99
        shift = [a - b for a, b in zip(center(item["label"]), start, strict=True)]
        assert all(abs(s) <= 6.5 for s in shift)
        assert item["label"].sum() == pytest.approx(float(moved()["label"].sum()), rel=0.15)


def test_zoom_and_rotation_keep_proportions() -> None:
    """A disk stays a disk, whatever the shape of the image: its area follows the zoom alone."""
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(128), indexing="ij")
    disk = ((rows - 30) ** 2 + (columns - 64) ** 2 <= 20**2).to(torch.uint8)[None]
    item = {"image": disk * 255, "label": disk}
    area = float(disk.sum()) / 4
    for seed in range(10):
        label = moved(seed, item, affine_prob=1.0, rotate_range=math.pi)["label"]
        assert float(label.sum()) == pytest.approx(area, rel=0.05)
        hit = label[0].nonzero()
        assert (hit.max(0).values - hit.min(0).values - 20).abs().max() <= 1
        zoomed = float(moved(seed, item, affine_prob=1.0, zoom_range=0.2)["label"].sum())
        assert 0.8**2 * 0.94 <= zoomed / area <= 1.2**2 * 1.06


def test_a_crop_shows_the_structure_with_its_margin() -> None:
    item = moved(crop_prob=1.0, crop_margin=(0.5, 0.5))
    assert item["type"] == "local"
    assert item["label"].mean() == pytest.approx(20 * 30 / (60 * 60), rel=0.1)  # rows 0 to 40, columns 5 to 65
    assert not item["label"][:, :8].any() or item["label"].sum() > 0
    small = moved(crop_prob=1.0, crop_margin=(0.0, 0.0), min_margin=0.0)
    assert small["label"].sum() == pytest.approx(SIDE * SIDE * 20 / 30, rel=0.05)


def test_an_empty_mask_is_not_cropped() -> None:
    item = {**sample(), "label": torch.zeros(1, 100, 128, dtype=torch.uint8)}
    cropped = moved(item=item, crop_prob=1.0)
    assert cropped["type"] == "whole"
    assert torch.equal(cropped["image"], moved()["image"])


def test_an_empty_mask_is_cropped_anywhere_where_asked() -> None:
    """The part is a quarter of the image, wherever it lies; a structure's crop has a probability of its own."""
    ramp = torch.arange(100 * 128).div(100 * 128 / 250).to(torch.uint8).view(1, 100, 128)
    item = {**sample(), "image": ramp, "label": torch.zeros(1, 100, 128, dtype=torch.uint8)}
    parts = [moved(seed, item, anywhere_prob=1.0, anywhere_range=(0.5, 0.5)) for seed in range(20)]
    assert {part["type"] for part in parts} == {"local"}
    middles = [part["image"][0, SIDE // 4 : -SIDE // 4] * 255 for part in parts]  # half of the side is 0.64 of the part
    assert all(float(rows.max() - rows.min()) == pytest.approx(0.64 * 125, abs=4) for rows in middles)
    tops = [float(rows.min()) for rows in middles]
    assert min(tops) < 50 < 110 < max(tops)
    assert moved(anywhere_prob=1.0)["type"] == "whole"
    assert moved(item=item, crop_prob=1.0)["type"] == "whole"


def test_what_was_flipped_is_not_rotated_where_asked() -> None:
    options = {"flip_prob": 1.0, "affine_prob": 1.0, "rotate_range": 0.3, "rotate_flipped": False}
    assert torch.equal(moved(**options)["label"], moved(flip_prob=1.0)["label"])
    assert not torch.equal(moved(**{**options, "rotate_flipped": True})["label"], moved(flip_prob=1.0)["label"])


def test_the_seed_decides_and_the_kept_sample_stays() -> None:
    item = sample()
    before = item["image"].clone()
    options: dict[str, Any] = {"crop_prob": 0.5, "flip_prob": 0.5, "affine_prob": 0.7, "rotate_range": 0.3}
    one, again, other = (moved(seed, item, **options)["image"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(item["image"], before)


def test_grey_gets_three_channels_and_color_keeps_its_own() -> None:
    grey, color = torch.rand(1, 4, 5), torch.rand(3, 4, 5)
    assert torch.equal(GreyToRGBd()({"image": grey})["image"], grey.repeat(3, 1, 1))
    assert torch.equal(GreyToRGBd()({"image": color})["image"], color)


def test_color_channels_do_not_share_memory() -> None:
    """What writes to a channel in place must not write to the others."""
    image = GreyToRGBd()({"image": torch.zeros(1, 2, 2)})["image"]
    image[0] += 1
    assert not image[1:].any()
