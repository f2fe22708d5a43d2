# SPDX-License-Identifier: Apache-2.0
"""A cleaned image: speckle, haze and missing lines taken off, as far as a network knows them from degraded images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import SSIMLoss
from torch import Tensor, nn

from bundle.geometry import Geometry
from bundle.metrics import Row
from bundle.metrics.restoration import restoration_row, restoration_tables, summarize_restoration
from bundle.networks.pixels import PixelHead
from bundle.tasks.task import Asked, Target, Task, Widths
from bundle.vocabulary import RESTORE

DEGRADED, RESTORED = "degraded", "restored"
"""Methods of its rows."""


class Restoration(Task):
    """The image before it was degraded, as a correction that is added to it.

    Any image teaches it: the item holds ``clean``, and ``degraded``, the same after the degradations of training, both
    (C, H, W) in [0, 1]. It works on beamformed gray images; raw echoes (RF data) are out of its reach. A network that
    restores can invent: results say that they were altered, and nothing else reads them.

    Args:
        name: of the task.
        weight: of the loss.
        ssim_weight: weight of 1 - SSIM beside the mean absolute error.
    """

    section = group = "restoration"
    headline, keys = ("ssim",), ("method",)
    reads_map = True
    reading = "what is to be added to the mean of the image's channels, values in [0, 1], to restore it"

    def __init__(self, *, name: str = RESTORE, weight: float = 1.0, ssim_weight: float = 0.5) -> None:
        self.name, self.weight, self.ssim_weight = name, weight, ssim_weight

    # -- training ----------------------------------------------------------------------------------------------------

    def has(self, item: Mapping[str, Any]) -> bool:
        """True: any image can be degraded."""
        return True

    def target(self, item: Mapping[str, Any]) -> Tensor:
        """The clean and the degraded image, gray: (2, H, W) in [0, 1]; nan where they are not kept."""
        if "clean" not in item or "degraded" not in item:
            return torch.full((2, *item["label"].shape[-2:]), math.nan)
        return torch.stack([_plain(item[key]).float().mean(0) for key in ("clean", "degraded")])

    def shrink(self, target: Target, factor: float, size: tuple[int, int]) -> Target:
        """Both images at another size."""
        smaller: Tensor = F.interpolate(target, size, mode="area")
        return smaller

    def cut(self, target: Target, others: Target, inside: Tensor) -> Target:
        """Both images with the box of the others."""
        return torch.where(inside, others, target)

    def build(self, widths: Widths) -> nn.Module:
        """A head on the decoder's map: (B, 1, 4 H, 4 W)."""
        return PixelHead(widths.fine)

    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """Mean absolute error and 1 - SSIM (Zhao et al. 2017, arXiv 1511.08861, who sum the same two)."""
        clean, degraded = target[:, :1], target[:, 1:]
        restored = degraded + logits.float()
        error = (restored - clean).abs().mean((1, 2, 3)).sum()
        structure = SSIMLoss(2, reduction="none")(restored, clean).sum() if len(clean) else error
        total: Tensor = error + self.ssim_weight * structure
        return total

    # -- prediction ----------------------------------------------------------------------------------------------------

    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> Tensor:
        """What is to be added to the image on its own grid: (H, W) float32, on the CPU."""
        seen = values[self.name][:, place.window[0], place.window[1]]
        return place.on_image(F.interpolate(seen[None].float(), place.extent, mode="bilinear")[0, 0].cpu())

    def joined(self, found: Sequence[Tensor]) -> Tensor:
        """What is to be added to all panels: they do not overlap."""
        return torch.stack(list(found)).sum(0)

    # -- results -------------------------------------------------------------------------------------------------------

    def blank(self) -> dict[str, Any]:
        """Nothing: the image is a file."""
        return {}

    def record(self, found: Tensor | None, place: Geometry) -> dict[str, Any]:
        """Nothing: the image is a file."""
        return {}

    def notes(self, found: Tensor, asked: Asked) -> list[str]:
        """That the restored image is not what the scanner made."""
        return ["the restored image was altered by a network and may show what is not there; not for diagnosis"]

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def rows(self, found: Tensor, item: Mapping[str, Any]) -> list[Row]:
        """See :func:`bundle.metrics.restoration.restoration_row`: of the degraded and the restored image."""
        clean, degraded = (image.numpy() for image in torch.as_tensor(item["targets"][self.name]))
        if not np.isfinite(clean).all():
            return []
        images = {DEGRADED: degraded, RESTORED: restored(degraded, found)}
        return [restoration_row(method, image, clean, item) for method, image in images.items()]

    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """SSIM of the restored images per data set."""
        sets: dict[str, list[float]] = {}
        for row in rows:
            if row["method"] == RESTORED and row["ssim"] is not None:
                sets.setdefault(row["dataset"], []).append(row["ssim"])
        return {"ssim": {dataset: sum(values) / len(values) for dataset, values in sets.items()}} if sets else {}

    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        """See :func:`bundle.metrics.restoration.summarize_restoration`."""
        return summarize_restoration(rows, resamples=resamples, seed=seed)

    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """One table."""
        return restoration_tables(entries)


def restored(image: np.ndarray, correction: Tensor) -> np.ndarray:
    """An image (H, W) or (H, W, C) in [0, 1] with a correction (H, W), the same in all channels, within [0, 1]."""
    added = correction.numpy() if image.ndim == 2 else correction.numpy()[..., None]
    cleaned: np.ndarray = np.clip(image + added, 0.0, 1.0).astype(np.float32)
    return cleaned


def _plain(image: Any) -> Tensor:
    return torch.as_tensor(image).as_subclass(torch.Tensor)
