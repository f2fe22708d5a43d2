# SPDX-License-Identifier: Apache-2.0
"""Filters that a restoring network is compared with, and a picture of what each makes of an image."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage.filters import median
from skimage.metrics import peak_signal_noise_ratio
from skimage.morphology import disk
from skimage.restoration import denoise_bilateral, denoise_nl_means, denoise_wavelet, estimate_sigma

from bundle.report.pictures import INK, PAPER, png

Filter = Callable[..., np.ndarray]


def _median(image: np.ndarray, *, radius: int) -> np.ndarray:
    return np.asarray(median(image, disk(radius)))


def _bilateral(image: np.ndarray, *, gray: float, places: float) -> np.ndarray:
    return np.asarray(denoise_bilateral(image, sigma_color=gray, sigma_spatial=places, win_size=2 * round(places) + 3))


def _non_local_means(image: np.ndarray, *, strength: float) -> np.ndarray:
    noise = max(float(estimate_sigma(image)), 1e-4)
    return np.asarray(denoise_nl_means(image, patch_size=5, patch_distance=6, h=strength * noise, fast_mode=True))


def _wavelet(image: np.ndarray, *, strength: float) -> np.ndarray:
    noise = max(float(estimate_sigma(image)), 1e-4)
    return np.asarray(denoise_wavelet(image, sigma=strength * noise, rescale_sigma=True))


FILTERS: dict[str, tuple[Filter, dict[str, Sequence[Any]]]] = {
    "median": (_median, {"radius": (1, 2, 3)}),
    "bilateral": (_bilateral, {"gray": (0.05, 0.1, 0.2), "places": (1.0, 2.0)}),
    "non-local means": (_non_local_means, {"strength": (0.5, 1.0, 2.0, 4.0)}),
    "wavelet": (_wavelet, {"strength": (0.5, 1.0, 2.0, 4.0)}),
}
"""Name -> a filter of scikit-image on (H, W) in [0, 1], and the values of its parameters that are tried."""


def best_parameters(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Filter -> the parameters with the highest mean PSNR.

    Args:
        pairs: clean and degraded images (H, W) in [0, 1], of a split that is not the one to be scored.
    """
    return {
        name: max(_choices(values), key=functools.partial(_mean_psnr, of, pairs))
        for name, (of, values) in FILTERS.items()
    }


def _choices(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _mean_psnr(of: Filter, pairs: Sequence[tuple[np.ndarray, np.ndarray]], chosen: Mapping[str, Any]) -> float:
    results = [(clean, filtered(of, degraded, chosen)) for clean, degraded in pairs]
    return float(np.mean([peak_signal_noise_ratio(clean, image, data_range=1) for clean, image in results]))


def filtered(of: Filter, image: np.ndarray, chosen: Mapping[str, Any]) -> np.ndarray:
    """An image (H, W) in [0, 1] after a filter, within [0, 1]: float32."""
    result: np.ndarray = np.clip(of(image, **chosen), 0, 1).astype(np.float32)
    return result


def draw_restored(rows: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> bytes:
    """A PNG file: one row for each image, one column for each method.

    Args:
        rows: method -> image (H, W) in [0, 1].
        names: what stands to the left of each row.
    """
    methods = list(rows[0])
    figure = Figure(figsize=(1.9 * len(methods), 1.75 * len(rows) + 0.3), dpi=110, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(methods), squeeze=False)
    for cell, method in zip(axes[0], methods, strict=True):
        cell.set_title(method, color=INK, fontsize=8)
    for line, images, name in zip(axes, rows, names, strict=True):
        for cell, image in zip(line, images.values(), strict=True):
            cell.imshow(image, cmap="gray", vmin=0, vmax=1)
            cell.set_xticks([])
            cell.set_yticks([])
        line[0].set_ylabel(name, color=INK, fontsize=8)
    figure.tight_layout(pad=0.4)
    return png(figure, facecolor=PAPER)
