# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized, SpatialPadd
from PIL import Image

from bundle.geometry import Geometry, longest_to
from bundle.transforms import Letterboxd
from bundle.transforms.letterbox import stretch_positive


def picture(height: int, width: int, channels: int = 3) -> MetaTensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return MetaTensor(torch.stack([(rows * (c + 2) + columns * 3) % 97 / 96 for c in range(channels)]))


def boxed(image: torch.Tensor, side: int = 224) -> torch.Tensor:
    """The square without its black border."""
    square = Letterboxd("image", side)({"image": image})["image"]
    assert square.shape == (len(image), side, side)
    rows, columns = Geometry((image.shape[1], image.shape[2]), side).window
    return square[:, rows, columns]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((600, 800), (168, 224)), ((800, 600), (224, 168)), ((50, 40), (224, 179)), ((9000, 3), (224, 1))],
)
def test_the_longest_side_gets_the_length(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert longest_to(shape, 224) == expected
    square = Letterboxd("image", 224)({"image": torch.ones(1, *shape)})["image"][0]
    assert (int(square.any(1).sum()), int(square.any(0).sum())) == expected


def test_the_image_is_in_the_middle_and_the_spare_line_behind_it() -> None:
    square = Letterboxd("image", 8)({"image": torch.ones(1, 3, 8)})["image"]
    assert square[0, :, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert Geometry((3, 8), 8).window == (slice(2, 5), slice(0, 8))


def test_it_filters_as_pillow_does() -> None:
    image = picture(300, 400, 1)
    reference = Image.fromarray(image[0].numpy(), mode="F").resize((112, 84), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(boxed(image, 112)[0].numpy(), np.asarray(reference), atol=1e-5)


def test_a_fine_grating_becomes_grey_instead_of_a_coarse_one() -> None:
    grating = torch.arange(896).remainder(2).float().expand(1, 896, 896)
    assert (boxed(grating)[:, 4:-4, 4:-4] - 0.5).abs().max() < 1e-6


def test_the_inverse_gives_the_native_grid_back() -> None:
    ramp = torch.linspace(0, 1, 300)[:, None].expand(300, 201)[None].contiguous()
    transform = Compose([Letterboxd("image", 224)])
    item = transform({"image": MetaTensor(ramp)})
    back = transform.inverse(item)["image"]
    assert back.shape == (1, 300, 201)
    assert (back - ramp).abs().max() < 0.01
    assert not back.applied_operations
    torch.testing.assert_close(back.affine, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(300, 201), (50, 61), (7, 300), (224, 224), (300, 1)])
@pytest.mark.parametrize("nearest", [False, True])
def test_place_and_way_back_are_those_of_monais_transforms(shape: tuple[int, int], nearest: bool) -> None:
    image = MetaTensor(torch.rand(1, *shape), affine=torch.diag(torch.tensor([0.5, 0.25, 1.0, 1.0])))
    steps = [Resized("image", 224, size_mode="longest", mode="bilinear"), SpatialPadd("image", [224, 224])]
    pred = torch.rand(2, 224, 224)
    affines, ways_back = [], []
    for transform in (Compose([Letterboxd("image", 224)]), Compose(steps)):
        item = transform({"image": image.clone()})
        affines.append(item["image"].affine)
        invert = Invertd("pred", transform, "image", nearest_interp=nearest)
        ways_back.append(invert({**item, "pred": MetaTensor(pred)})["pred"])
    torch.testing.assert_close(*affines)
    torch.testing.assert_close(ways_back[0].affine, image.affine)
    torch.testing.assert_close(*(way.as_tensor() for way in ways_back))


@pytest.mark.parametrize("shape", [(300, 1), (1, 300), (300, 2), (2, 300)])
def test_thin_images_keep_what_they_show(shape: tuple[int, int]) -> None:
    image = torch.zeros(1, *shape)
    image.flatten()[: image.numel() // 2] = 1
    assert boxed(image).mean() == pytest.approx(0.5, abs=0.01)


def test_a_gray_image_is_scaled_as_any_other() -> None:
    gray = torch.rand(1, 50, 33).repeat(3, 1, 1)
    colored = torch.cat([gray[:2], torch.zeros(1, 50, 33)])
    scaled, other = boxed(gray, 20), boxed(colored, 20)
    assert scaled.shape == (3, 20, 13)
    torch.testing.assert_close(scaled[:2], other[:2], rtol=0, atol=1e-6)
    assert torch.equal(scaled[2], scaled[0])
    assert not other[2].any()


@pytest.mark.parametrize("shape", [(60, 80), (13, 9), (500, 31), (30, 40), (1, 200)])
@pytest.mark.parametrize("where", [(0, 0), (29, 39), (12, 20)])
def test_what_is_positive_is_stretched_as_the_whole_is(shape: tuple[int, int], where: tuple[int, int]) -> None:
    values = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) - 1.2
    values[max(0, where[0] - 3) : where[0] + 4, max(0, where[1] - 2) : where[1] + 5] += 1
    whole = F.interpolate(values[None, None], shape, mode="bilinear")[0, 0]
    window, part = stretch_positive(values, shape)
    outside = whole.clone()
    outside[window] = -1
    assert outside.max() <= 0
    positive = whole[window] > 0
    torch.testing.assert_close(part[positive], whole[window][positive], rtol=0, atol=1e-5)
    assert part[~positive].max() <= 1e-5


def test_one_positive_pixel_is_all_that_is_computed() -> None:
    values = torch.full((30, 40), -1.0)
    values[10, 20] = 3
    window, part = stretch_positive(values, (60, 80))
    assert window == (slice(18, 24), slice(38, 44))
    assert part.shape == (6, 6)
    assert part.max() == pytest.approx(3 * 0.75**2 - 1 * (1 - 0.75**2))
