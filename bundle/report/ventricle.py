# SPDX-License-Identifier: Apache-2.0
"""Volumes and ejection fraction of a ventricle, of the results of an inference, and a picture of the disks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from bundle.palette import hex_color
from bundle.report.pictures import png
from bundle.volumes import AXES_AGREE, DISKS, Disks, disks, ejection_fraction, ventricle

PHASES = ("end-diastolic", "end-systolic")


@dataclass(frozen=True)
class Outline:
    """A ventricle in one image.

    Attributes:
        name: of the image; of a clip with its frame.
        mask: (H, W) bool.
        spacing: of rows and columns in mm.
        source: of the spacing.
        cut: the outline across its axis.
    """

    name: str
    mask: np.ndarray
    spacing: tuple[float, float]
    source: str
    cut: Disks


def read_view(results: Path, files: Sequence[str], *, structure: str) -> tuple[Outline, Outline]:
    """The end-diastolic and the end-systolic outline of one view.

    Args:
        results: folder of an inference.
        files: as in its tables: two images, end-diastole first, or one clip, of whose frames that with the largest
            area of the structure is end-diastole and that with the smallest one end-systole.
        structure: the ventricle's name.

    Raises:
        ValueError: when the folder holds no such results, the structure is not found, or no spacing is known.
    """
    path = results / "predictions.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        value = {one["name"]: int(one["value"]) for one in told["structures"]}.get(structure, 0)
        images = [one for one in told["images"] if one["file"] in files]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: results of an inference expected, got {error!r}; run inference first.") from error
    if not value:
        names = ", ".join(one["name"] for one in told["structures"][1:])
        raise ValueError(f"{path}: structure {structure!r} expected, got {names}; correct --structure.")
    if missing := [file for file in files if file not in {one["file"] for one in images}]:
        raise ValueError(f"{path}: image {missing[0]} expected, got results without it; correct the name.")
    seen = [one for one in images if not one["error"] and (one["areas"][structure]["pixels"] or 0) > 0]
    if len(files) == 1:
        seen.sort(key=lambda one: -one["areas"][structure]["pixels"])
        pair = [seen[0], seen[-1]] if len(seen) > 1 else seen
    else:
        pair = [one for file in files for one in seen if one["file"] == file]
    if len(pair) != 2:
        raise ValueError(
            f"{path}: {structure} in two images, or in two frames of a clip, expected, got {len(pair)} of"
            f" {', '.join(files)}; choose others, or correct the masks."
        )
    first, second = (_outline(results, one, value=value) for one in pair)
    return first, second


def _outline(results: Path, one: Mapping[str, Any], *, value: int) -> Outline:
    name = one["file"] if one.get("frame") is None else f"{one['file']} frame {one['frame']}"
    spacing, mask = one["spacing_mm"], one.get("mask")
    if spacing["row"] is None:
        raise ValueError(f"{name}: spacing expected, got none, so that nothing is in mm; infer with --spacing.")
    if not mask:
        raise ValueError(f"{name}: mask expected, got none; run inference with its masks.")
    with Image.open(results / mask) as picture:
        found = np.asarray(picture) == value
    mm = float(spacing["row"]), float(spacing["column"])
    return Outline(name, found, mm, spacing["source"], disks(found, mm))


def volumes(views: Sequence[tuple[Outline, Outline]]) -> dict[str, Any]:
    """Volumes in mL, the ejection fraction in percent, the long axes in mm, and notes, as plain values.

    Args:
        views: one, or the four- and the two-chamber view.

    Raises:
        ValueError: when the end-systolic volume is the larger one: the phases are mixed up.
    """
    found: dict[str, Any] = {"method": "biplane disks" if len(views) > 1 else "disks of one view", "disks": DISKS}
    notes, ml = [], []
    for phase, outlines in zip(PHASES, zip(*views, strict=True), strict=True):
        axes = [outline.cut.length for outline in outlines]
        ml.append(ventricle(*(outline.cut for outline in outlines)))
        found[phase] = {
            "volume_ml": round(ml[-1], 2),
            "long_axes_mm": [round(axis, 2) for axis in axes],
            "images": [outline.name for outline in outlines],
            "spacing_source": [outline.source for outline in outlines],
        }
        if max(axes) > (1 + AXES_AGREE) * min(axes):
            notes.append(f"{phase}: the long axes differ by more than {AXES_AGREE:.0%}; a view is foreshortened")
    if ml[1] > ml[0]:
        raise ValueError(
            f"end-diastolic volume must be the larger one, got {ml[0]:.1f} and {ml[1]:.1f} mL; give end-diastole first."
        )
    found["ejection_fraction_percent"] = round(ejection_fraction(*ml), 2)
    found["source"] = "Lang et al., J. Am. Soc. Echocardiogr. 2015; 28:1-39"
    return {**found, "notes": notes}


def draw(views: Sequence[tuple[Outline, Outline]], found: Mapping[str, Any]) -> bytes:
    """A PNG: each outline with its volume, and the diameters of its disks over the long axis."""
    figure = Figure(figsize=(3.6 * len(PHASES), 3.2 * (len(views) + 1)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(views) + 1, len(PHASES), squeeze=False)
    for column, phase in enumerate(PHASES):
        for row, view in enumerate(views):
            axes, outline = panels[row][column], view[column]
            axes.imshow(outline.mask, cmap="gray", aspect=outline.spacing[0] / outline.spacing[1])
            axes.set_title(f"{phase}: {outline.name}", fontsize=8)
            axes.set_axis_off()
            steps = np.arange(DISKS) + 0.5
            profile = panels[-1][column]
            height = outline.cut.length / DISKS
            profile.bar(steps * height, outline.cut.diameters, height, alpha=0.5, color=hex_color(row + 1))
        panels[-1][column].set_title(f"{phase}: {found[phase]['volume_ml']:.1f} mL", fontsize=9)
        panels[-1][column].set_xlabel("along the axis, mm")
        panels[-1][column].set_ylabel("diameter, mm")
    figure.suptitle(f"ejection fraction {found['ejection_fraction_percent']:.1f} %", fontsize=10)
    return png(figure)
