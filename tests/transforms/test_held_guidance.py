# SPDX-License-Identifier: Apache-2.0
"""What a user said holds to the pixel."""

from typing import Any

import numpy as np

from bundle.transforms.guidance import counting_points, hold_to_guidance

NOTHING: dict[str, Any] = {"wanted": [], "unwanted": [], "box": None, "mask": None}
SEEN = np.zeros((4, 8, 8), np.float32)
SEEN[2, :4], SEEN[1, 4:] = 0.2, 0.1  # of the third structure above, of the second below


def hold(mask: np.ndarray, **slots: dict[str, Any]) -> np.ndarray:
    """The mask after guidance ``s<slot>={...}``."""
    held = mask.copy()
    hold_to_guidance(held, {int(name[1:]): {**NOTHING, **said} for name, said in slots.items()}, SEEN)
    return held


def blocks() -> np.ndarray:
    """20 x 30 pixels with two blocks of structure 3 and one of structure 1."""
    mask = np.zeros((20, 30), np.uint8)
    mask[2:6, 3:9] = mask[12:18, 20:28] = 3
    mask[8:11, 10:16] = 1
    return mask


def test_a_structure_stays_inside_its_box_to_the_pixel() -> None:
    mask = np.full((20, 30), 1, np.uint8)
    for box, rows, columns in (
        ((3, 4, 9, 12), (3, 9), (4, 12)),
        ((2.5, 3.2, 9.9, 12.0), (3, 9), (4, 12)),
        ((-5, -7, 4, 40), (0, 4), (0, 29)),
        ((4.3, 6.2, 4.6, 6.4), (4, 4), (6, 6)),  # smaller than a pixel
        ((19.5, 29.5, 25, 35), (19, 19), (29, 29)),  # touches the corner
    ):
        for slot in ("s1", "s0"):
            found = np.argwhere(hold(mask, **{slot: {"box": box}}))
            assert found.min(0).tolist() == [rows[0], columns[0]]
            assert found.max(0).tolist() == [rows[1], columns[1]]
    assert (hold(mask, s2={"box": (3, 4, 9, 12)}) == 1).all()  # another structure's box
    assert (hold(mask, s0={"box": (3, 4, 9, 12)}, s1={"wanted": [(0, 0)]}) == 1).all()  # the box of what has no name


def test_where_nothing_is_wanted_nothing_stays() -> None:
    mask, expected = blocks(), blocks()
    expected[2:6, 3:9] = 0  # the whole block, which nobody asked for; the other block stays
    assert np.array_equal(hold(mask, s1={"wanted": [(9, 12)], "unwanted": [(3, 4)]}), expected)
    expected = blocks()
    expected[8, 10] = 0  # of what is guided the place alone
    assert np.array_equal(hold(mask, s1={"wanted": [(9, 12)], "unwanted": [(8.4, 9.6)]}), expected)
    assert np.array_equal(hold(mask, s1={"wanted": [(9, 12)], "unwanted": [(0, 0)]}), blocks())


def test_a_wanted_place_goes_before_an_unwanted_one() -> None:
    mask = blocks()
    held = hold(mask, s1={"wanted": [(3, 4)], "unwanted": [(3, 4)]}, s3={"wanted": [(0, 0)], "unwanted": [(3, 4)]})
    assert (held[3, 4], held[0, 0]) == (1, 3)
    mask[3, 4], mask[0, 0] = 1, 3
    assert np.array_equal(held, mask)
    both = hold(blocks(), s1={"wanted": [(0, 0)], "unwanted": [(0, 0)]}, s2={"wanted": [(0, 0)], "unwanted": [(0, 0)]})
    assert both[0, 0] == 2


def test_a_wanted_place_without_a_name_is_the_most_probable_structure_there() -> None:
    held = hold(np.zeros((20, 30), np.uint8), s0={"wanted": [(0, 0), (19, 29), (3, 4)], "unwanted": [(3, 4)]})
    assert np.argwhere(held).tolist() == [[0, 0], [3, 4], [19, 29]]
    assert (held[0, 0], held[19, 29]) == (3, 2)


def test_clicks_outside_their_box_do_not_count() -> None:
    said = {"wanted": [(3, 4), (10, 4), (-3, 4)], "unwanted": [(10, 4)], "box": (2, 2, 6, 6)}
    assert counting_points({**NOTHING, **said}, (20, 30)) == {"wanted": [(3, 4)], "unwanted": [(10, 4)]}
    assert hold(np.ones((20, 30), np.uint8), s1=said)[10, 4] == 0
