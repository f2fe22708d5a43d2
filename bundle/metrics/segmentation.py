# SPDX-License-Identifier: Apache-2.0
"""Segmentation scores of one image on its native grid, and their means per data set and structure.

What is counted, and how:

- A score is taken for each structure that the image's data set labels; background is never scored.
- The headline Dice is the mean over the images whose truth holds the structure. Beside it stand the false-alarm rate
  (share of the other images in which at least one pixel is predicted) and ``dice_all``, the mean over all images in
  which an empty truth scores 1 when the prediction is empty too and 0 when it is not. No image is dropped.
- ``other_area`` is the mean share of the image that is called a structure which its data set does not label: right or
  wrong, nobody asked for it. It is 0 where the position prompt rules out such structures.
- Truth present but nothing predicted: Dice, IoU and NSD are 0 and HD95 is the diagonal of the image.
- Distances are in mm where the pixel spacing is known, else in pixels; means never mix the two.
- NSD's tolerance is a number of mm where the spacing is known, else a fraction of the image's diagonal.
- Protocol ``paper`` (for comparison with published figures only): the scores inside the centered square crop whose side
  is the shorter side of the image; images whose mask is empty there are left out of the means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from torch import Tensor

from bundle.measures import compared
from bundle.metrics.bootstrap import mean_estimate
from bundle.vocabulary import UNKNOWN

Row = dict[str, Any]
PROTOCOLS = ("native", "paper")


def item_name(item: Mapping[str, Any]) -> str:
    """The path of the item's image as it was loaded."""
    return str(item["image"].meta["filename_or_obj"])


def item_origin(item: Mapping[str, Any]) -> Row:
    """Image path, data set, patient and group of an item; an unknown patient or group is the image itself."""
    image = item_name(item)
    patient = item.get("patient") or image
    return {
        "image": image,
        "dataset": item.get("dataset") or UNKNOWN,
        "patient": patient,
        "group": item.get("group") or patient,
    }


def centered_square(mask: Tensor) -> Tensor:
    """The centered square of (..., H, W) whose side is the shorter of H and W."""
    height, width = mask.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return mask[..., top : top + side, left : left + side]


@dataclass(frozen=True)
class Tolerance:
    """How near to each other two boundaries agree, for NSD.

    Attributes:
        mm: distance in mm, where the spacing is known.
        fraction: distance as a fraction of the image's diagonal, where it is not.
    """

    mm: float
    fraction: float


def segmentation_rows(
    item: Mapping[str, Any], *, structures: Sequence[str], protocol: str = "native", tolerance: Tolerance | None = None
) -> list[Row]:
    """One row of scores per structure that the item's data set labels.

    Args:
        item: ``pred`` and ``label`` (1, H, W) structure indices on the native grid, ``labeled`` (C,) truth values,
            ``spacing`` (2,) row and column in mm or NaN, ``image`` with ``meta["filename_or_obj"]``; ``dataset``,
            ``patient`` and ``group`` where known.
        structures: name of each structure index; index 0 is background.
        protocol: ``native`` or ``paper``.
        tolerance: also computes NSD and HD95, which take most of the time, and in the native protocol the lengths of
            ``bundle.measures`` in mm of prediction and mask; None: neither.

    Raises:
        ValueError: when the prediction and the mask differ in size.
    """
    channels = [i for i in range(1, len(structures)) if bool(item["labeled"][i])]
    if not channels:
        return []
    pred, truth = _masks(item, protocol)
    height, width = (int(n) for n in pred.shape)
    spacing = [float(s) for s in item["spacing"]]
    known = all(math.isfinite(s) and s > 0 for s in spacing)
    size = {"protocol": protocol, "height": height, "width": width, "unit": "mm" if known else "px"}
    others = int(((pred > 0) & ~torch.isin(pred, torch.tensor(channels, dtype=pred.dtype))).sum())
    rows = []
    for channel in channels:
        masks = (pred == channel)[None, None], (truth == channel)[None, None]  # (1, 1, H, W)
        row = {**item_origin(item), "structure": structures[channel], **size, **_overlap(*masks)}
        row["other_pixels"] = others
        if tolerance is not None:
            row |= _distances(*masks, spacing=spacing if known else None, tolerance=tolerance)
            if protocol == "native":
                plain = [mask[0, 0].numpy() for mask in masks]
                row |= compared(plain[0], plain[1], spacing if known else None)
        rows.append(row)
    return rows


def _masks(item: Mapping[str, Any], protocol: str) -> tuple[Tensor, Tensor]:
    """Prediction and truth (H, W), as the protocol looks at them."""
    pred, truth = (torch.as_tensor(item[k]).detach().cpu()[0] for k in ("pred", "label"))
    if pred.shape != truth.shape:
        raise ValueError(
            f"prediction and mask must have the size of the image, got {tuple(pred.shape)} and {tuple(truth.shape)} "
            f"for {item_name(item)}; save the mask at the size of its image."
        )
    return (centered_square(pred), centered_square(truth)) if protocol == "paper" else (pred, truth)


def _overlap(pred: Tensor, truth: Tensor) -> Row:
    """Areas in pixels, Dice and IoU of two masks (1, 1, H, W); both empty scores 1."""
    truth_pixels, pred_pixels = int(truth.sum()), int(pred.sum())
    return {
        "present": truth_pixels > 0,
        "truth_pixels": truth_pixels,
        "pred_pixels": pred_pixels,
        "dice": float(compute_dice(pred, truth, ignore_empty=False)),
        "iou": float(compute_iou(pred, truth, ignore_empty=False)),
    }


def _distances(pred: Tensor, truth: Tensor, *, spacing: Sequence[float] | None, tolerance: Tolerance) -> Row:
    """NSD and HD95 of two masks (1, 1, H, W); None without a truth, because there is no boundary to be near to.

    Args:
        pred: predicted.
        truth: true.
        spacing: of rows and columns in mm; None: not known, distances are in pixels.
        tolerance: of NSD.
    """
    steps = [1.0, 1.0] if spacing is None else spacing
    diagonal = math.hypot(*(n * step for n, step in zip(pred.shape[2:], steps, strict=True)))
    near = tolerance.fraction * diagonal if spacing is None else tolerance.mm
    nsd: float | None = None
    hd95: float | None = None
    if truth.any() and pred.any():
        nsd = float(compute_surface_dice(pred, truth, [near], include_background=True, spacing=steps))
        hd95 = float(compute_hausdorff_distance(pred, truth, include_background=True, percentile=95, spacing=steps))
    elif truth.any():
        nsd, hd95 = 0.0, diagonal
    return {"nsd": nsd, "nsd_tolerance": near, "hd95": hd95}


def by_structure(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each (data set, structure), sorted by name."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["dataset"], row["structure"]), []).append(row)
    return dict(sorted(cells.items()))


def mean_dice(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Headline Dice per (data set, structure): mean over images that hold it; cells without any are left out."""
    present = by_structure([row for row in rows if row["present"]])
    return {cell: sum(r["dice"] for r in members) / len(members) for cell, members in present.items()}


def summarize_segmentation(rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Means with 95 % intervals by group, one entry per data set and structure.

    Args:
        rows: of one protocol, from ``segmentation_rows``.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    return [
        {"dataset": dataset, "structure": structure, **_summary(cell, resamples=resamples, seed=seed)}
        for (dataset, structure), cell in by_structure(rows).items()
    ]


def _summary(rows: list[Row], *, resamples: int, seed: int) -> dict[str, Any]:
    paper = rows[0]["protocol"] == "paper"
    present = [r for r in rows if r["present"]]
    absent = [] if paper else [r for r in rows if not r["present"]]
    counted = present + absent

    def mean(members: list[Row], values: Sequence[Any]) -> Any:
        return mean_estimate(values, [r["group"] for r in members], resamples=resamples, seed=seed)

    summary: dict[str, Any] = {
        "protocol": rows[0]["protocol"],
        "images": len(counted),
        "patients": len({r["patient"] for r in counted}),
        "groups": len({r["group"] for r in counted}),
        "present": len(present),
        "absent": len(absent),
        "left_out": len(rows) - len(counted),
        "dice": mean(present, [r["dice"] for r in present]),
        "iou": mean(present, [r["iou"] for r in present]),
        "surface": {},
    }
    if not paper:
        summary["dice_all"] = mean(counted, [r["dice"] for r in counted])
        summary["false_alarm_rate"] = mean(absent, [r["pred_pixels"] > 0 for r in absent])
        summary["false_area"] = mean(absent, [r["pred_pixels"] / (r["height"] * r["width"]) for r in absent])
        summary["other_area"] = mean(counted, [r["other_pixels"] / (r["height"] * r["width"]) for r in counted])
    for unit in ("mm", "px"):
        members = [r for r in present if r["unit"] == unit and r.get("hd95") is not None]
        if members:
            summary["surface"][unit] = {
                "images": len(members),
                "nsd": mean(members, [r["nsd"] for r in members]),
                "hd95": mean(members, [r["hd95"] for r in members]),
            }
    return summary
