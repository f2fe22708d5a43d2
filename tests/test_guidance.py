# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from bundle.guidance import SimulatedUser, draw_guidance, largest_region, middle


def block(shape: tuple[int, int], *places: tuple[int, int, int, int]) -> np.ndarray:
    """Blocks of True: first row, first column, last row, last column."""
    region = np.zeros(shape, bool)
    for top, left, bottom, right in places:
        region[top : bottom + 1, left : right + 1] = True
    return region


def distance(place: tuple[float, float], region: np.ndarray) -> float:
    """City-block distance in pixels to the nearest pixel of a region."""
    return float(np.abs(np.argwhere(region) - place).sum(1).min())


def test_a_click_is_a_disk_in_its_channel() -> None:
    drawn = draw_guidance((5, 6), wanted=[(2, 1)], unwanted=[(0, 5)], radius=1)
    assert drawn.dtype == torch.float32
    assert drawn[0].tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert drawn[1].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1], *[[0] * 6] * 3]


def test_a_disk_holds_the_pixels_within_the_radius() -> None:
    drawn = draw_guidance((21, 31), wanted=[(9, 12)], radius=5.0)[0]
    assert drawn.sum() == 81  # lattice points with x^2 + y^2 <= 25
    assert [drawn[9, 17], drawn[13, 15], drawn[9, 18], drawn[13, 16]] == [1, 1, 0, 0]


def test_clicks_between_pixels_and_beside_the_grid() -> None:
    assert draw_guidance((3, 4), wanted=[(0.5, 2.0)], radius=0.5)[0].tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [0] * 4]
    reaching_in = draw_guidance((3, 4), wanted=[(-1, 2)], unwanted=[(-9, 2), (1, 9)], radius=1)
    assert reaching_in[0].tolist() == [[0, 0, 1, 0], [0] * 4, [0] * 4]
    assert not reaching_in[1].any()


@pytest.mark.parametrize("radius", [0, 0.7, 3, 5.0, 5.5])
def test_many_disks_are_those_of_one_after_the_other(radius: float) -> None:
    random = np.random.default_rng(0)
    places = [(float(y), float(x)) for y, x in random.uniform(-8, 40, (1000, 2))]
    for points in (places[:40], places):
        rows, columns = torch.arange(31.0)[:, None], torch.arange(37.0)
        expected = torch.zeros(31, 37)
        for row, column in points:
            expected[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = 1
        assert torch.equal(draw_guidance((31, 37), unwanted=points, radius=radius)[1], expected)


def test_a_box_is_ones_outside_it() -> None:
    drawn = draw_guidance((4, 5), box=(1, 1, 2, 3), unwanted=[(2, 2)], radius=0)
    assert not drawn[0].any()
    assert drawn[1].tolist() == [[1] * 5, [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1] * 5]


def test_a_former_mask_is_a_half_below_the_clicks() -> None:
    mask = torch.tensor([[0.0, 0.5, 0.6], [1.0, 1.0, 0.0]])
    assert draw_guidance((2, 3), mask=mask, radius=1)[0].tolist() == [[0, 0, 0.5], [0.5, 0.5, 0]]
    clicked = draw_guidance((2, 3), mask=mask, wanted=[(1, 0)], unwanted=[(0, 2)], radius=0)
    assert clicked.tolist() == [[[0, 0, 0.5], [1, 0.5, 0]], [[0, 0, 1], [0, 0, 0]]]


def test_the_middle_is_farthest_from_the_border() -> None:
    assert middle(block((9, 12), (1, 5, 5, 9))) == (3, 7)
    assert middle(block((9, 12), (1, 5, 5, 9), (0, 0, 3, 2))) == (3, 7)  # depths 3 and 2


def test_the_border_of_the_image_counts() -> None:
    """Without it, the farthest pixels of a region that fills five rows at the top would lie in row 0."""
    assert middle(block((8, 5), (0, 0, 4, 4))) == (2, 2)
    assert middle(np.ones((3, 3), bool)) == (1, 1)


def test_a_drawn_place_is_likelier_in_the_depth() -> None:
    region, rng = block((7, 8), (2, 3, 4, 5)), np.random.default_rng(0)
    drawn = [middle(region, rng) for _ in range(2000)]
    assert all(region[place] for place in drawn)
    assert len(set(drawn)) == 9
    assert drawn.count((3, 4)) / 2000 == pytest.approx(4 / 12, abs=0.03)  # depth 2 in the middle, 1 in the other eight


def test_the_largest_region_is_the_largest_of_those_that_share_sides() -> None:
    large, small = (1, 4, 2, 6), (3, 2, 4, 3)  # they touch at a corner
    assert np.array_equal(largest_region(block((6, 8), large, small)), block((6, 8), large))
    assert np.array_equal(largest_region(block((6, 8), small)), block((6, 8), small))
    assert not largest_region(np.zeros((6, 8), bool)).any()


TRUTH = block((20, 30), (2, 3, 8, 9), (12, 20, 14, 22))  # 7 x 7 and 3 x 3 pixels
LARGE = block((20, 30), (2, 3, 8, 9))


def test_the_first_click_lies_inside_the_largest_part() -> None:
    user = SimulatedUser(TRUTH)
    assert user.click()
    assert (user.wanted, user.unwanted) == ([(5, 6)], [])
    for seed in range(50):
        user = SimulatedUser(TRUTH, np.random.default_rng(seed))
        assert user.click()
        assert len(user.wanted) == 1
        assert LARGE[user.wanted[0]]


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
@pytest.mark.parametrize(
    ("pred", "wanted", "unwanted"),
    [
        (LARGE, [(13, 21)], []),  # the small part is missed
        (np.zeros_like(TRUTH), [(5, 6)], []),  # both are missed
        (TRUTH | block((20, 30), (15, 2, 19, 6)), [], [(17, 4)]),  # surplus
        (LARGE | block((20, 30), (15, 2, 19, 6)), [], [(17, 4)]),  # 25 surplus pixels, 9 missed ones
        (LARGE | block((20, 30), (17, 2, 18, 3)), [(13, 21)], []),  # 4 surplus pixels, 9 missed ones
        # the largest error alone counts: 9 missed pixels in one piece, 16 surplus ones in four
        (LARGE | block((20, 30), *((16, x, 17, x + 1) for x in (1, 4, 7, 10))), [(13, 21)], []),
    ],
)
def test_the_next_click_is_in_the_middle_of_the_largest_error(
    rng: np.random.Generator | None,
    pred: np.ndarray,
    wanted: list[tuple[int, int]],
    unwanted: list[tuple[int, int]],
) -> None:
    user = SimulatedUser(TRUTH, rng)
    assert user.click(pred)
    assert (user.wanted, user.unwanted) == (wanted, unwanted)


def test_nothing_is_said_of_a_perfect_prediction() -> None:
    user = SimulatedUser(TRUTH, np.random.default_rng(0), wrong_prob=1.0)
    assert not user.click(TRUTH.copy())
    assert (user.wanted, user.unwanted, user.box) == ([], [], None)


def test_the_box_holds_the_whole_structure() -> None:
    user = SimulatedUser(TRUTH)
    user.draw_box(jitter=0.1)  # nobody draws the jitter
    assert user.box == (2, 3, 14, 22)
    user = SimulatedUser(TRUTH, np.random.default_rng(0))
    user.draw_box()
    assert user.box == (2, 3, 14, 22)


def test_each_side_of_the_box_is_moved_by_a_part_of_its_size() -> None:
    moves = []
    for seed in range(300):
        user = SimulatedUser(block((100, 100), (20, 30, 59, 49)), np.random.default_rng(seed))
        user.draw_box(jitter=0.1)
        assert user.box is not None
        moves.append(np.subtract(user.box, (20, 30, 59, 49)))
    reached = np.array(moves)
    for side, most in enumerate((4, 2, 4, 2)):  # a tenth of 40 rows and of 20 columns, either way
        assert reached[:, side].min() == pytest.approx(-most, abs=0.5)
        assert reached[:, side].max() == pytest.approx(most, abs=0.5)
    assert np.corrcoef(reached.T)[np.triu_indices(4, 1)] == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_a_box_round_a_thin_structure_is_not_empty(thickness: int) -> None:
    truth = block((20, 30), (5, 2, 4 + thickness, 21))
    for seed in range(50):
        user = SimulatedUser(truth, np.random.default_rng(seed))
        user.draw_box(jitter=0.1)
        outside = draw_guidance(truth.shape, box=user.box, radius=1)[1].numpy()
        assert (truth & (outside == 0)).any()


def test_a_wrong_click_lies_beside_the_structure() -> None:
    for seed in range(50):
        user = SimulatedUser(LARGE, np.random.default_rng(seed), wrong_prob=1.0)
        assert user.click()
        assert user.click(np.ones_like(LARGE))
        assert user.unwanted == []
        assert all(1 <= distance(place, LARGE) <= 7 for place in user.wanted)  # the root of 49 pixels
        assert len(user.wanted) == 2


def test_a_small_structure_has_wrong_clicks_up_to_two_pixels_off() -> None:
    user = SimulatedUser(block((20, 30), (9, 9, 9, 9)), np.random.default_rng(0))
    for _ in range(200):
        user.click_wrong()
    assert {distance(place, user.truth) for place in user.wanted} == {1, 2}
    everything = SimulatedUser(np.ones((4, 4), bool))
    everything.click_wrong()
    assert everything.wanted == []


def test_clicks_go_wrong_as_often_as_asked() -> None:
    user = SimulatedUser(LARGE, np.random.default_rng(0), wrong_prob=0.3)
    for _ in range(1000):
        user.click()
    assert np.mean([not LARGE[place] for place in user.wanted]) == pytest.approx(0.3, abs=0.05)


def test_a_seed_gives_the_same_user() -> None:
    def say(seed: int) -> SimulatedUser:
        user = SimulatedUser(TRUTH, np.random.default_rng(seed), wrong_prob=0.5)
        user.draw_box(jitter=0.1)
        for pred in (None, None, ~TRUTH, None):
            user.click(pred)
        return user

    one, again, other = say(3), say(3), say(4)
    assert (one.wanted, one.unwanted, one.box) == (again.wanted, again.unwanted, again.box)
    assert (one.wanted, one.box) != (other.wanted, other.box)
