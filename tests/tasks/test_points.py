# SPDX-License-Identifier: Apache-2.0
import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.geometry import Geometry
from bundle.tasks import Asked, Masks, Points, Widths
from bundle.tasks.decoding import decoded
from bundle.transforms import RandGeometryd, ShrinkSampled
from bundle.vocabulary import Organs

ORGANS = Organs({"head": {"structures": ["head"]}, "limb": {}, "indis": {}})
POINTS = {"head": ["left", "right"], "indis": ["mark"]}


def task(**options: Any) -> Points:
    return Points(ORGANS, POINTS, **{"pairs": [["left", "right"]], **options})


def item(points: dict[str, Any] | None, shape: tuple[int, int] = (40, 60)) -> dict[str, Any]:
    return {"points": points, "label": torch.zeros(1, *shape), "image": torch.zeros(3, *shape)}


def test_target_says_where_that_there_is_none_or_nothing() -> None:
    target = task().target(item({"left": [3.0, 4.5], "mark": None}))
    assert target[0].tolist() == [3.0, 4.5, 1.0]
    assert target[2, 2] == 0
    assert torch.isnan(target[1]).all()
    assert task().labeled(torch.stack([target, task().target(item(None))])).tolist() == [True, False]
    assert [task().has(item(points)) for points in ({"mark": None}, {"other": [1, 1]}, {}, None)] == [
        True, False, False, False,
    ]  # fmt: skip


def test_a_point_outside_the_image_is_not_there() -> None:
    target = task().target(item({"left": [-0.6, 4.0], "right": [39.4, 59.4], "mark": [39.6, 0.0]}))
    assert target[:, 2].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("left", "right", "swapped"),
    [([5, 10], [5, 20], False), ([5, 20], [5, 10], True), ([30, 10], [5, 12], True), ([5, 12], [30, 10], False)],
)
def test_a_pair_is_ordered_left_to_right_or_downwards(left: list[int], right: list[int], swapped: bool) -> None:
    target = task().target(item({"left": left, "right": right}))
    expected = [right, left] if swapped else [left, right]
    assert target[:2, :2].tolist() == expected


def test_loss_is_least_where_the_target_is_and_nowhere_for_a_point_that_is_not_there() -> None:
    points = task()
    target = torch.stack([points.target(item({"left": [9.5, 21.5], "mark": None}, (32, 32)))])
    right, wrong = torch.full((2, 1, 3, 8, 8), -30.0)
    right[0, 0, 2, 5], wrong[0, 0, 5, 2] = 0.0, 0.0  # (9.5 + .5) / 4 - .5 = 2, (21.5 + .5) / 4 - .5 = 5
    assert points.loss(right, target) < points.loss(wrong, target)
    # the point lies in the middle of place (2, 5): a Gaussian of one place, whose entropy is the least loss
    near = torch.exp(-((torch.arange(8)[:, None] - 2.0) ** 2 + (torch.arange(8) - 5.0) ** 2) / 2)
    share = (near / near.sum()).flatten()
    best = torch.full((1, 3, 8, 8), -60.0)
    best[0, 0] = share.log().reshape(8, 8) + 40
    entropy = -(share * share.log()).sum()
    assert points.loss(best, target).item() == pytest.approx(float(entropy) / 2, rel=1e-3)  # of two known points
    here = torch.full((1, 3, 8, 8), -60.0)
    here[0, 0], here[0, 2, 3, 3] = best[0, 0], 5.0
    assert points.loss(here, target).item() == pytest.approx((float(entropy) + math.log(1 + math.e**5)) / 2, rel=1e-3)


def test_every_parameter_of_the_head_gets_a_gradient() -> None:
    points = task()
    head = points.build(Widths(fine=16, feature=8))
    logits = head(torch.randn(1, 16, 8, 8), torch.zeros(1, 8), torch.zeros(1, 8))
    points.loss(
        logits, points.target(item({"left": [3, 4], "right": [7, 20], "mark": [9, 9]}, (32, 32)))[None]
    ).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def place_of(row: float, column: float, size: int = 56) -> torch.Tensor:
    """Logits of a Gaussian round a point of the square, in pixels."""
    rows = torch.arange(size)[:, None] - ((row + 0.5) / 4 - 0.5)
    columns = torch.arange(size) - ((column + 0.5) / 4 - 0.5)
    return 12 - (rows**2 + columns**2) / 2


@pytest.mark.parametrize("native", [(50.25, 120.5), (130.0, 40.75)])
def test_a_point_is_decoded_to_a_fraction_of_a_pixel_on_the_image(native: tuple[float, float]) -> None:
    points, place = task(), Geometry((201, 236), 224, (0.5, 0.25))
    square = place.to_square(torch.tensor([native], dtype=torch.float64))[0].tolist()
    logits = torch.full((3, 56, 56), -20.0)
    logits[0] = place_of(*square)
    found = points.decode({"points": points.activate(logits)}, place, Asked("head"))
    assert list(found) == ["left"]
    assert found["left"]["row"] == pytest.approx(native[0], abs=0.2)
    assert found["left"]["column"] == pytest.approx(native[1], abs=0.2)
    assert found["left"]["probability"] == pytest.approx(1, abs=1e-3)
    record = points.record(found, place)["points"]
    assert record["right"] == {"row": None, "column": None, "probability": None}
    assert record["left"]["row"] == round(found["left"]["row"], 2)


def test_positions_have_their_points_and_those_of_any() -> None:
    points = task()
    assert [points.shown(position) for position in ("head", "limb", "unknown", "none")] == [
        [0, 1, 2], [2], [0, 1, 2], [2],
    ]  # fmt: skip
    logits = torch.full((3, 56, 56), 3.0)
    values = {"points": points.activate(logits)}
    assert set(points.decode(values, Geometry((56, 56), 224), Asked("limb"))) == {"mark"}


@pytest.mark.parametrize(("value", "present", "seen"), [(1, 0.9, True), (1, 0.4, False), (0, 0.9, False)])
def test_points_of_an_organ_need_one_of_its_structures(value: int, present: float, seen: bool) -> None:
    points = Points(ORGANS, {**POINTS, "limb": ["end"]})  # the limb shows no structure, and indis is any organ
    seg = torch.zeros(2, 56, 56)
    seg[value] = 1.0
    values = {"points": points.activate(torch.full((4, 14, 14), 3.0)), "presence": torch.tensor([present])}
    tasks = [points, Masks(ORGANS, gate={"head": 0.5})]
    assert set(decoded(tasks, [{**values, "seg": seg}], [Geometry((56, 56), 56)], Asked())["points"]) == (
        {"left", "right", "mark", "end"} if seen else {"mark", "end"}
    )
    assert len(decoded(tasks, [values], [Geometry((56, 56), 56)], Asked())["points"]) == 4  # weights without masks


def test_points_follow_every_resampling() -> None:
    """A bright pixel and the point on it stay together: shrunken, cropped, turned, flipped and letterboxed."""
    points = task()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        row, column = (int(rng.integers(30, n - 30)) for n in (180, 260))
        image = torch.zeros(3, 180, 260)
        image[:, row - 2 : row + 3, column - 2 : column + 3] = 1
        label = torch.zeros(1, 180, 260)
        label[:, row - 25 : row + 25, column - 25 : column + 25] = 1
        data = {"image": MetaTensor(image), "label": MetaTensor(label), "points": {"mark": [float(row), float(column)]}}
        small = ShrinkSampled(200, tasks=[points])(data)
        moving = RandGeometryd(
            128, crop_prob=0.5, flip_prob=0.5, affine_prob=1.0, rotate_range=0.5, zoom_range=0.2, translate_range=10,
            tasks=[points],
        )  # fmt: skip
        moving.set_random_state(seed)
        moved = moving(small)
        grey = moved["image"][0]
        if grey.sum() < 3 or not bool(points.target(moved)[2, 2]):
            continue
        rows, columns = torch.arange(128.0)[:, None], torch.arange(128.0)
        middle = [float((grey * axis).sum() / grey.sum()) for axis in (rows, columns)]
        assert moved["points"]["mark"] == pytest.approx(middle, abs=0.8), seed


def test_error_in_pixels_and_millimeters() -> None:
    points, place = task(), Geometry((100, 100), 224, (0.5, 0.25))
    image = MetaTensor(torch.zeros(3, 8, 8), meta={"filename_or_obj": "a.png"})
    target = points.target(item({"left": [10.0, 20.0], "mark": None, "right": [50.0, 80.0]}, (100, 100)))
    scored = {"image": image, "targets": {"points": target}, "geometry": place, "dataset": "D"}
    found = {
        "left": {"row": 13.0, "column": 24.0, "probability": 0.9},
        "mark": {"row": 1.0, "column": 1.0, "probability": 0.6},
    }
    left, right, mark = points.rows(found, scored)
    assert (left["error_px"], left["error_mm"]) == (5.0, pytest.approx(math.hypot(1.5, 1.0)))
    assert (right["present"], right["found"], right["error_px"]) == (True, False, None)
    assert (mark["present"], mark["found"]) == (False, True)
    assert points.scores([left, right, mark]) == {"points": {"found": pytest.approx(1 / 3)}}
    summary = points.summary([left, right, mark], resamples=10, seed=0)
    assert [(entry["point"], entry["present"], entry["absent"]) for entry in summary] == [
        ("left", 1, 0), ("mark", 0, 1), ("right", 1, 0),
    ]  # fmt: skip
    assert points.tables(summary)[2] == "| D | left | 1 | 1.000 | 5.00 | 1.80 | 0 | - |"


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"points must name organs .*, got \['knee'\]"):
        Points(ORGANS, {"knee": ["a"]})
    with pytest.raises(ValueError, match=r"points must have names of their own, got \['a', 'a'\]"):
        Points(ORGANS, {"head": ["a"], "limb": ["a"]})
    with pytest.raises(ValueError, match=r"pairs must be two points of .* each, got \['left'\]"):
        task(pairs=[["left"]])


def test_pairs_of_points_that_are_not_declared_are_left_out() -> None:
    points = task(pairs=[["left", "right"], ["long_axis_1", "long_axis_2"]])
    assert points.told() == {"organ_points": POINTS, "point_pairs": [["left", "right"]]}
    with pytest.raises(ValueError, match=r"pairs must be two points of .* each, got \['left', 'rigth'\]"):
        task(pairs=[["left", "rigth"]])


def test_points_that_weights_do_not_know_are_left_out() -> None:
    points = task()
    points.keep(["right", "left"])
    assert points.names == ["right", "left"]
    assert points.pairs == [(1, 0)]
    assert points.blank()["points"].keys() == {"left", "right"}
    points.keep([])
    points.keep(["other"])  # loading says what is wrong
    assert points.names == ["right", "left"]
