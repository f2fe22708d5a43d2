# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from bundle.geometry import Geometry, longest_to, transformed
from bundle.transforms import Letterboxd


@pytest.mark.parametrize(
    ("shape", "side", "size", "window"),
    [
        ((40, 80), 20, (10, 20), (slice(5, 15), slice(0, 20))),
        ((80, 40), 20, (20, 10), (slice(0, 20), slice(5, 15))),
        ((10, 30), 15, (5, 15), (slice(5, 10), slice(0, 15))),
        ((20, 30), 15, (10, 15), (slice(2, 12), slice(0, 15))),  # the odd line comes last
        ((3, 1000), 32, (1, 32), (slice(15, 16), slice(0, 32))),  # no side falls below one
        ((7, 7), 7, (7, 7), (slice(0, 7), slice(0, 7))),
    ],
)
def test_the_window_that_an_image_fills(
    shape: tuple[int, int], side: int, size: tuple[int, int], window: tuple[slice, slice]
) -> None:
    assert longest_to(shape, side) == size
    assert Geometry(shape, side).window == window


@pytest.mark.parametrize(("shape", "side"), [((40, 80), 20), ((61, 37), 32), ((20, 30), 15), ((5, 9), 64), ((9, 9), 9)])
def test_points_come_back(shape: tuple[int, int], side: int) -> None:
    place = Geometry(shape, side)
    points = torch.tensor([[0.0, 0.0], [shape[0] - 1, shape[1] - 1], [3.25, 1.5]], dtype=torch.float64)
    assert torch.allclose(place.to_native(place.to_square(points)), points, atol=1e-12)
    assert torch.allclose(place.to_square(points), transformed(points, torch.linalg.inv(place.matrix())), atol=1e-12)


def test_corners_of_the_image_are_corners_of_the_window() -> None:
    """Pixels count from their middles: the image's edge lies half a pixel before the first one."""
    place = Geometry((40, 80), 20)
    corners = torch.tensor([[-0.5, -0.5], [39.5, 79.5]])
    assert torch.allclose(place.to_square(corners), torch.tensor([[4.5, -0.5], [14.5, 19.5]]))
    assert torch.allclose(place.to_native(torch.tensor([[5.0, 0.0]])), torch.tensor([[1.5, 1.5]]))


@pytest.mark.parametrize("shape", [(41, 67), (67, 41), (48, 30)])
def test_a_bright_place_is_where_the_letterbox_puts_it(shape: tuple[int, int]) -> None:
    side, point = 32, torch.tensor([[12.0, 15.0]])
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in shape)
    image = torch.exp(-((rows[:, None] - 12) ** 2 + (columns[None] - 15) ** 2) / 18)[None]
    square = Letterboxd("image", side)({"image": image})["image"][0]
    index = torch.arange(side, dtype=torch.float32)
    weight = square / square.sum()
    found = torch.stack([(weight.sum(1) * index).sum(), (weight.sum(0) * index).sum()])
    assert torch.allclose(found, Geometry(shape, side).to_square(point)[0], atol=0.05)


def test_millimeters_need_both_spacings() -> None:
    steps = torch.tensor([[3.0, 0.0], [0.0, 2.0], [3.0, 2.0]])
    place = Geometry((10, 10), 32, (0.5, 2.0))
    assert place.known
    assert place.millimeters(steps).tolist() == pytest.approx([1.5, 4.0, math.hypot(1.5, 4.0)])
    for spacing in ((math.nan, math.nan), (0.5, math.nan), (0.0, 0.5), (-1.0, 1.0), (math.inf, 1.0)):
        assert not Geometry((10, 10), 32, spacing).known
    assert Geometry((10, 10), 32).millimeters(steps).isnan().all()
