# SPDX-License-Identifier: Apache-2.0
"""How near a restored image comes to the clean one, and how well a structure stands out of what lies round it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bundle.metrics.bootstrap import mean_estimate
from bundle.metrics.segmentation import Row, item_origin
from bundle.metrics.tables import number, table

MEASURES = {"psnr": 2, "ssim": 3, "cnr": 2, "gcnr": 3}
"""Name of a measure -> its decimals in a table; of each, more is better."""

_BINS = 64  # of the gray values' histograms


def restoration_row(method: str, image: np.ndarray, clean: np.ndarray, item: Mapping[str, Any]) -> Row:
    """Scores of one image by one method.

    Args:
        method: its name.
        image: (H, W) in [0, 1], what is scored.
        clean: (H, W) in [0, 1], what it should be.
        item: with ``label`` (1, H, W), whose structures together are the region of the contrast; where there is none,
            the contrast is None.
    """
    mask = np.asarray(item["label"]).reshape(-1, *clean.shape)[0] > 0
    row = {**item_origin(item), "method": method, **contrast(image, mask)}
    ssim = structural_similarity(clean, image, data_range=1.0) if min(clean.shape) >= 7 else None  # its window
    return {**row, "psnr": float(peak_signal_noise_ratio(clean, image, data_range=1.0)), "ssim": ssim}


def contrast(image: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    """``cnr`` and ``gcnr`` of a region against a ring of the same area round it.

    The contrast-to-noise ratio is the difference of the means over the root of the sum of the variances; the
    generalized one is 1 minus the overlap of the histograms, which no monotonous change of the gray values alters.

    Args:
        image: (H, W) in [0, 1].
        mask: (H, W) bool.

    Reference:
        Rodriguez-Molares et al. 2020, "The generalized contrast-to-noise ratio", doi 10.1109/TUFFC.2019.2956855.
    """
    away = distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
    width = max(2.0, (np.sqrt(2) - 1) * np.sqrt(mask.sum() / np.pi))  # of a disk's ring
    inside, beside = image[mask], image[(away > 0) & (away <= width)]
    if not inside.size or not beside.size:
        return {"cnr": None, "gcnr": None}
    noise = float(np.sqrt(inside.var() + beside.var()))
    shares = [np.histogram(part, _BINS, (0.0, 1.0))[0] / part.size for part in (inside, beside)]
    cnr = abs(float(inside.mean() - beside.mean())) / max(noise, 1e-6)
    return {"cnr": cnr, "gcnr": 1 - float(np.minimum(*shares).sum())}


def summarize_restoration(rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Per data set and method: means of the measures with intervals by group.

    Args:
        rows: of :func:`restoration_row`.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["dataset"], row["method"]), []).append(row)

    def mean(cell: Sequence[Row], measure: str) -> Any:
        known = [row for row in cell if row[measure] is not None]
        values, groups = [row[measure] for row in known], [row["group"] for row in known]
        return mean_estimate(values, groups, resamples=resamples, seed=seed)

    return [
        {"dataset": dataset, "method": method, "images": len(cell)} | {name: mean(cell, name) for name in MEASURES}
        for (dataset, method), cell in cells.items()
    ]


def restoration_tables(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown of ``summarize_restoration``."""
    head = ["Data set", "Method", "Images", "PSNR in dB", "SSIM", "CNR", "gCNR"]
    rows = [
        [entry["dataset"], entry["method"], str(entry["images"])]
        + [number(entry[name], decimals) for name, decimals in MEASURES.items()]
        for entry in entries
    ]
    return table(head, rows)
