# SPDX-License-Identifier: Apache-2.0
"""Segmentation scores against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from bundle.metrics import Tolerance, segmentation_rows, summarize_segmentation

STRUCTURES = ["background", "lesion", "nerve"]
NAN = float("nan")


def square(top: int, left: int, *, size: tuple[int, int] = (40, 60), side: int = 10, value: int = 1) -> torch.Tensor:
    mask = torch.zeros(1, *size, dtype=torch.uint8)
    mask[0, top : top + side, left : left + side] = value
    return mask


def make_item(pred: torch.Tensor, label: torch.Tensor, name: str = "/data/a.png", **changes: Any) -> dict[str, Any]:
    item = {
        "image": MetaTensor(torch.zeros(3, 32, 32), meta={"filename_or_obj": name}),
        "pred": MetaTensor(pred),
        "label": MetaTensor(label),
        "labeled": torch.tensor([True, True, False]),
        "spacing": torch.tensor([NAN, NAN]),
        "dataset": "BUSI",
        "patient": "BUSI/1",
        "group": "g1",
    }
    return {**item, **changes}


def rows_of(item: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return segmentation_rows(item, structures=STRUCTURES, **{"tolerance": Tolerance(2.0, 0.02), **options})


def test_two_squares_that_share_half() -> None:
    # 10 x 10 against 10 x 10 moved by 5 columns: 50 shared, 150 together
    (row,) = rows_of(make_item(square(10, 15), square(10, 10)))
    assert row["structure"] == "lesion"
    assert row["dice"] == pytest.approx(2 * 50 / 200)
    assert row["iou"] == pytest.approx(50 / 150)
    assert (row["truth_pixels"], row["pred_pixels"], row["present"]) == (100, 100, True)


@pytest.mark.parametrize(
    ("spacing", "unit", "hd95"),
    [([0.5, 2.0], "mm", 6.0), ([NAN, NAN], "px", 3.0), ([0.0, 0.0], "px", 3.0)],
)
def test_hd95_of_a_square_moved_by_three_columns(spacing: list[float], unit: str, hd95: float) -> None:
    # Of the 36 boundary pixels the 10 of the leading edge lie 3 columns off: the 95th percentile is 3 x column spacing.
    (row,) = rows_of(make_item(square(10, 13), square(10, 10), spacing=torch.tensor(spacing)))
    assert (row["unit"], row["hd95"]) == (unit, pytest.approx(hd95))


def test_rows_and_columns_have_their_own_spacing() -> None:
    (row,) = rows_of(make_item(square(13, 10), square(10, 10), spacing=torch.tensor([0.5, 2.0])))
    assert row["hd95"] == pytest.approx(1.5)  # 3 rows of 0.5 mm


def test_nsd_counts_the_boundary_within_the_tolerance() -> None:
    # 36 boundary pixels each way. Moved by 3 columns, the far edges (10 pixels each) lie 3 off; on the top and bottom
    # edges 7 of 10 pixels coincide and the others (two of them corners of the far edge) lie 1, 2 and 3 off.
    item = make_item(square(10, 13), square(10, 10), spacing=torch.tensor([1.0, 1.0]))
    (loose,) = rows_of(item, tolerance=Tolerance(3.0, 0.02))
    (tight,) = rows_of(item, tolerance=Tolerance(0.5, 0.02))
    assert loose["nsd"] == pytest.approx(1.0)
    assert tight["nsd"] == pytest.approx(14 / 36)  # the 7 + 7 pixels that coincide
    assert tight["nsd_tolerance"] == 0.5


def test_nsd_tolerance_is_a_share_of_the_diagonal_without_spacing() -> None:
    mask = square(2, 2, size=(30, 40))
    (row,) = rows_of(make_item(mask, mask), tolerance=Tolerance(9.0, 0.02))
    assert row["nsd_tolerance"] == pytest.approx(0.02 * 50)  # 30, 40, 50


def test_a_missed_structure_gets_the_worst_value_and_stays() -> None:
    item = make_item(torch.zeros(1, 30, 40), square(2, 2, size=(30, 40)), spacing=torch.tensor([2.0, 2.0]))
    (row,) = rows_of(item)
    assert (row["dice"], row["iou"], row["nsd"], row["hd95"]) == (0, 0, 0, pytest.approx(100.0))  # 60, 80, 100 mm


def test_only_labeled_structures_are_scored() -> None:
    pred = square(10, 10) + square(25, 25, value=2)
    assert [r["structure"] for r in rows_of(make_item(pred, square(10, 10)))] == ["lesion"]
    assert rows_of(make_item(pred, square(10, 10), labeled=torch.zeros(3, dtype=torch.bool))) == []


def test_other_structures_are_counted_by_area() -> None:
    pred = square(10, 10) + square(25, 25, value=2)
    rows = rows_of(make_item(pred, square(10, 10)))
    rows += rows_of(make_item(square(10, 10), square(10, 10), name="/data/b.png"))
    assert [row["other_pixels"] for row in rows] == [100, 0]
    (summary,) = summarize_segmentation(rows, resamples=50, seed=0)
    assert summary["other_area"]["value"] == pytest.approx(100 / 2400 / 2)
    both = rows_of(make_item(pred, square(10, 10), labeled=torch.tensor([True, True, True])))
    assert [row["other_pixels"] for row in both] == [0, 0]


def test_false_alarms_have_their_own_rate_and_no_image_is_dropped() -> None:
    nothing = torch.zeros(1, 40, 60, dtype=torch.uint8)
    rows = []
    for i, (pred, label) in enumerate(
        [(square(5, 5), square(5, 5)), (square(5, 10), square(5, 5)), (nothing, nothing), (square(5, 5), nothing)]
    ):
        rows += rows_of(make_item(pred, label, name=f"/data/{i}.png", patient=f"p{i}", group=f"p{i}"))
    (summary,) = summarize_segmentation(rows, resamples=50, seed=0)
    assert (summary["images"], summary["patients"], summary["present"], summary["absent"]) == (4, 4, 2, 2)
    assert summary["dice"]["value"] == pytest.approx((1 + 0.5) / 2)
    assert summary["dice_all"]["value"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert summary["false_alarm_rate"]["value"] == pytest.approx(1 / 2)
    assert summary["false_area"]["value"] == pytest.approx((0 + 100 / 2400) / 2)
    assert all(row["hd95"] is None and row["nsd"] is None for row in rows[2:])
    assert summary["surface"]["px"]["images"] == 2


def test_millimeters_and_pixels_are_never_averaged() -> None:
    rows = rows_of(make_item(square(10, 13), square(10, 10), name="/data/a.png"))
    rows += rows_of(make_item(square(10, 13), square(10, 10), name="/data/b.png", spacing=torch.tensor([1.0, 2.0])))
    (summary,) = summarize_segmentation(rows, resamples=50, seed=0)
    assert {u: s["hd95"]["value"] for u, s in summary["surface"].items()} == {"mm": 6.0, "px": 3.0}


def test_paper_protocol_scores_inside_the_centered_square() -> None:
    # 40 x 60: the square spans columns 10 to 49. Truth columns 5-14, prediction 10-19: inside, 50 of truth's pixels
    # and 100 of the prediction's, 50 shared.
    item = make_item(square(10, 10), square(10, 5))
    (native,), (paper,) = rows_of(item), rows_of(item, protocol="paper")
    assert native["dice"] == pytest.approx(2 * 50 / 200)
    assert paper["dice"] == pytest.approx(2 * 50 / 150)
    assert (paper["protocol"], paper["height"], paper["width"]) == ("paper", 40, 40)


def test_paper_protocol_leaves_empty_masks_out_and_says_so() -> None:
    outside = make_item(square(10, 50), square(10, 50), name="/data/b.png")
    rows = rows_of(make_item(square(10, 20), square(10, 20)), protocol="paper") + rows_of(outside, protocol="paper")
    (summary,) = summarize_segmentation(rows, resamples=50, seed=0)
    assert (summary["images"], summary["left_out"], summary["protocol"]) == (1, 1, "paper")
    assert "false_alarm_rate" not in summary


def test_a_mask_of_another_size_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"got \(40, 60\) and \(40, 61\) for /data/a.png; save the mask"):
        rows_of(make_item(square(1, 1), square(1, 1, size=(40, 61))))


def test_an_unknown_origin_is_the_image_itself() -> None:
    (row,) = rows_of(make_item(square(1, 1), square(1, 1), dataset="", patient="", group=""))
    assert (row["dataset"], row["patient"], row["group"]) == ("unknown", "/data/a.png", "/data/a.png")
    assert not math.isnan(row["dice"])
