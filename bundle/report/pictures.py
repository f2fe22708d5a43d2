# SPDX-License-Identifier: Apache-2.0
"""Pictures of truth and prediction side by side, drawn without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from bundle.failures import one_line
from bundle.metrics.segmentation import item_name
from bundle.palette import hex_color
from bundle.transforms import LoadUltrasoundd

PAPER, INK = "#14171c", "#e8eaed"
PANEL = (300, 340)
"""Rows and columns of one panel, in pixels; images are fitted in."""
GAP = 6
"""Columns between truth and prediction, in pixels."""


@dataclass
class Case:
    """One image with its truth and its prediction, masks kept no larger than they are shown.

    Attributes:
        path: of the image, which is read again when it is drawn.
        title: first line of the caption.
        caption: second line.
        truth: (h, w) uint8 structure indices; None when the image has no mask.
        pred: (h, w) uint8 structure indices.
    """

    path: str
    title: str
    caption: str
    truth: NDArray[np.uint8] | None
    pred: NDArray[np.uint8]


def make_case(item: Mapping[str, Any], *, title: str, caption: str) -> Case:
    """A case from an item of the evaluator's output (native grid); masks are shrunk to the size of a panel."""
    labeled = bool(torch.as_tensor(item["labeled"]).any())
    return Case(
        path=item_name(item),
        title=title,
        caption=caption,
        truth=_shrink(item["label"]) if labeled else None,
        pred=_shrink(item["pred"]),
    )


def draw_cases(cases: Sequence[Case], *, structures: Sequence[str], heading: str, columns: int = 3) -> bytes:
    """A PNG file: per case the truth (left) and the prediction (right) as outlines over the image.

    Args:
        cases: drawn row by row.
        structures: name of each structure index, background first; background alone where no masks are answered, and
            then the truth has none.
        heading: first line of the picture.
        columns: cases per row.
    """
    if len(structures) < 2:
        cases = [replace(case, truth=None) for case in cases]
    rows = max(1, -(-len(cases) // columns))
    width = columns * 4.9
    height = rows * 2.6 + 0.95
    figure = Figure(figsize=(width, height), dpi=110, facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.text(0.012, 1 - 0.28 / height, heading, color=INK, fontsize=13, weight="bold", va="center", parse_math=False)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.012,
        right=0.988,
        bottom=0.04 / height,
        top=1 - 0.98 / height,
        wspace=0.04,
        hspace=0.2,
    )
    for index, case in enumerate(cases):
        _draw_case(figure.add_subplot(grid[index // columns, index % columns]), case)
    _legend(figure, cases, structures=structures, top=1 - 0.28 / height)
    return png(figure, facecolor=PAPER)


def png(figure: Figure, **options: Any) -> bytes:
    """A figure as a PNG file; the options are those of matplotlib's ``savefig``."""
    file = io.BytesIO()
    figure.savefig(file, format="png", **options)
    return file.getvalue()


def _draw_case(axes: Any, case: Case) -> None:
    image = _read(case.path)
    blank = np.zeros(image.shape[:2], np.uint8)
    truth = blank if case.truth is None else _fit(case.truth, image.shape[:2])
    pair = [_overlay(image, truth), _overlay(image, _fit(case.pred, image.shape[:2]))]
    canvas = np.concatenate([_pad(pair[0]), np.full((PANEL[0], GAP, 3), _rgb(PAPER)), _pad(pair[1])], axis=1)
    axes.imshow(canvas.clip(0, 1), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(
        f"{_short(case.title, 56)}\n{_short(case.caption, 66)}",
        color=INK,
        fontsize=8.5,
        loc="left",
        pad=4,
        linespacing=1.35,
        parse_math=False,
    )
    for left, text in ((0, "truth" if case.truth is not None else "no mask"), (PANEL[1] + GAP, "prediction")):
        box = {"facecolor": PAPER, "alpha": 0.6, "edgecolor": "none", "pad": 2}
        axes.text(left + 8, PANEL[0] - 9, text, color=INK, fontsize=7.5, bbox=box)


def _legend(figure: Figure, cases: Sequence[Case], *, structures: Sequence[str], top: float) -> None:
    shown = {int(v) for c in cases for m in (c.truth, c.pred) if m is not None for v in np.unique(m)} - {0}
    patches = [Patch(color=hex_color(i), label=structures[i]) for i in sorted(shown)]
    if patches:
        legend = figure.legend(
            handles=patches, loc="center right", bbox_to_anchor=(0.99, top), ncols=len(patches), frameon=False
        )
        for text in legend.get_texts():
            text.set(color=INK, fontsize=9)


def _read(path: str) -> NDArray[np.float32]:
    """The image (h, w, 3) in [0, 1], fitted into a panel."""
    image = LoadUltrasoundd(keys="image")({"image": path})["image"]
    tensor = image.as_tensor()[None]  # (1, 3, H, W)
    scale = min(PANEL[0] / tensor.shape[2], PANEL[1] / tensor.shape[3])
    size = [max(1, round(n * scale)) for n in tensor.shape[2:]]
    fitted = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", antialias=True)[0]
    return np.asarray(fitted.permute(1, 2, 0).clamp(0, 1).numpy(), dtype=np.float32)


def _shrink(mask: Any) -> NDArray[np.uint8]:
    """A mask (1, H, W) as (h, w) no larger than a panel."""
    array = torch.as_tensor(mask).detach().cpu()[0].to(torch.uint8).numpy()
    scale = min(1.0, PANEL[0] / array.shape[0], PANEL[1] / array.shape[1])
    return _fit(array, (max(1, round(array.shape[0] * scale)), max(1, round(array.shape[1] * scale))))


def _fit(mask: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Nearest neighbors, pixel centers aligned."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, mask.shape, strict=True))
    return np.asarray(mask[rows][:, columns])


def _overlay(image: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The image with each structure lightly tinted and firmly outlined."""
    result: NDArray[np.float32] = image.copy()
    for index in np.unique(mask[mask > 0]):
        inside = mask == index
        edge = inside & ~binary_erosion(inside, iterations=2)
        color = _rgb(hex_color(int(index)))
        result[inside] = 0.82 * result[inside] + 0.18 * color
        result[edge] = color
    return result


def _pad(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centers an image in a panel."""
    panel = np.full((*PANEL, 3), _rgb("#000000"), dtype=np.float32)
    top, left = (PANEL[0] - image.shape[0]) // 2, (PANEL[1] - image.shape[1]) // 2
    panel[top : top + image.shape[0], left : left + image.shape[1]] = image
    return panel


def _rgb(color: str) -> NDArray[np.float32]:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=np.float32)


def _short(text: str, length: int) -> str:
    text = one_line(text)  # matplotlib draws no text that is not UTF-8
    return text if len(text) <= length else f"{text[: length // 2 - 1]}...{text[-(length // 2 - 2) :]}"
