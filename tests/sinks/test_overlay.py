# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from bundle.palette import color
from bundle.sinks.overlay import draw_overlay


@pytest.mark.parametrize("where", [(0, 0), (255, 491), (120, 0), (60, 200)])
def test_an_overlay_is_tinted_near_its_structures_as_it_would_be_everywhere(where: tuple[int, int]) -> None:
    """A structure in the far corner has the whole image tinted: contours of two pixels, at the border and inside it."""
    row, column = where
    image = np.random.default_rng(0).integers(0, 256, (520, 540, 3), np.uint8)
    mask = np.zeros((520, 540), np.uint8)
    mask[row : row + 40, column : column + 45] = 2
    both = mask.copy()
    both[[0, -1], [-1, 0]] = both[[-1, 0], [-1, 0]] = 1
    near = (slice(max(0, row - 3), row + 43), slice(max(0, column - 3), column + 48))
    assert np.array_equal(draw_overlay(image, mask)[near][5:, 5:], draw_overlay(image, both)[near][5:, 5:])
    drawn = draw_overlay(image, mask)
    assert (drawn != image).any(2).sum() <= 40 * 45
    assert tuple(drawn[row + 20, column + 44]) == color(2)
    assert tuple(drawn[row + 20, column + 43]) == color(2)


def test_overlay_fills_lightly_and_draws_the_contour() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    drawn = draw_overlay(np.full((9, 9, 3), 100, np.uint8), mask)
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert tuple(drawn[2, 4]) == color(1) == (230, 25, 75)
    assert drawn[4, 4].tolist() == [132, 81, 94]  # 0.75 * 100 + 0.25 * color


def slow_overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The overlay's definition, pixel by pixel in scipy and floating point."""
    drawn = image.astype(np.float32)
    width = max(1, min(mask.shape) // 250)
    for index in (int(v) for v in np.unique(mask) if v > 0):
        inside = mask == index
        drawn[inside] = 0.75 * drawn[inside] + 0.25 * np.array(color(index), np.float32)
        drawn[inside & ~binary_erosion(inside, iterations=width, border_value=1)] = color(index)
    result: np.ndarray = drawn.round().astype(np.uint8)
    return result


@pytest.mark.parametrize("scale", [1, 40])
def test_overlays_are_those_of_the_definition(scale: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        height, width = random.integers(1, 40, 2)
        mask = np.zeros((height, width), np.uint8)
        for value in random.integers(0, 9, 6):
            top, left = random.integers(0, height), random.integers(0, width)
            mask[top : top + random.integers(1, 30), left : left + random.integers(1, 30)] = value
        mask = np.kron(mask, np.ones((scale, scale), np.uint8))
        image = random.integers(0, 256, (*mask.shape, 3), np.uint8)
        np.testing.assert_array_equal(draw_overlay(image, mask), slow_overlay(image, mask))
        gray = np.repeat(image[..., :1], 3, axis=2)
        np.testing.assert_array_equal(draw_overlay(image[..., :1], mask), slow_overlay(gray, mask))
