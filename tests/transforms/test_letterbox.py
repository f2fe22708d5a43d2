# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SpatialPadd
from PIL import Image

from bundle.transforms import AntialiasedResized
from bundle.transforms.letterbox import longest_to


def picture(height: int, width: int, channels: int = 3) -> MetaTensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return MetaTensor(torch.stack([(rows * (c + 2) + columns * 3) % 97 / 96 for c in range(channels)]))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((600, 800), (168, 224)), ((800, 600), (224, 168)), ((50, 40), (224, 179)), ((9000, 3), (224, 1))],
)
def test_the_longest_side_gets_the_length(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert longest_to(shape, 224) == expected
    assert tuple(AntialiasedResized("image", 224)({"image": torch.zeros(1, *shape)})["image"].shape[1:]) == expected


def test_it_filters_as_pillow_does() -> None:
    image = picture(300, 400, 1)
    resized = AntialiasedResized("image", 112)({"image": image})["image"]
    reference = Image.fromarray(image[0].numpy(), mode="F").resize((112, 84), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resized[0].numpy(), np.asarray(reference), atol=1e-5)


def test_a_fine_grating_becomes_grey_instead_of_a_coarse_one() -> None:
    grating = torch.arange(896).remainder(2).float().expand(1, 896, 896)
    resized = AntialiasedResized("image", 224)({"image": grating})["image"]
    assert (resized[:, 4:-4, 4:-4] - 0.5).abs().max() < 1e-6


def test_the_inverse_gives_the_native_grid_back() -> None:
    ramp = torch.linspace(0, 1, 300)[:, None].expand(300, 201)[None].contiguous()
    transform = Compose([AntialiasedResized("image", 224), SpatialPadd("image", [224, 224])])
    item = transform({"image": MetaTensor(ramp)})
    assert item["image"].shape == (1, 224, 224)
    back = transform.inverse(item)["image"]
    assert back.shape == (1, 300, 201)
    assert (back - ramp).abs().max() < 0.01
    assert not back.applied_operations


@pytest.mark.parametrize("shape", [(300, 1), (1, 300), (300, 2), (2, 300)])
def test_thin_images_keep_what_they_show(shape: tuple[int, int]) -> None:
    image = torch.zeros(1, *shape)
    image.flatten()[: image.numel() // 2] = 1
    resized = AntialiasedResized("image", 224)({"image": image})["image"]
    assert resized.mean() == pytest.approx(0.5, abs=0.01)


def test_a_gray_image_is_scaled_as_any_other() -> None:
    gray = torch.rand(1, 50, 33).repeat(3, 1, 1)
    colored = torch.cat([gray[:2], torch.zeros(1, 50, 33)])
    scaled, other = (AntialiasedResized("image", 20)({"image": image})["image"] for image in (gray, colored))
    assert scaled.shape == (3, 20, 13)
    assert scaled.is_contiguous()
    torch.testing.assert_close(scaled[:2], other[:2], rtol=0, atol=1e-6)
    assert torch.equal(scaled[2], scaled[0])
    assert not other[2].any()
