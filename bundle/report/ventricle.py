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

SEEN = 0.1
"""Share of the largest area of a clip below which a frame does not count: what is found there are stray pixels."""

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


def read_view(results: Path, files: Sequence[str], *, structure: str) -> tuple[tuple[Outline, Outline], list[str]]:
    """The end-diastolic and the end-systolic outline of one view, and notes.

    What counts is in the mask files, which may be the user's own. Of a clip, the frames with the largest and with the
    smallest area are taken; those below ``SEEN`` of the largest are left out, with a note.

    Args:
        results: folder of an inference.
        files: as in its tables: two images, end-diastole first, or one clip.
        structure: the ventricle's name.

    Raises:
        ValueError: when the folder holds no such results or masks, the structure is not found, or no spacing is known.
    """
    value, images = _told(results / "predictions.json", files, structure)
    masks = [(one, _mask(results, one, value)) for one in images]
    seen = sorted(((int(mask.sum()), one, mask) for one, mask in masks if mask.any()), key=lambda part: -part[0])
    notes = []
    if len(files) == 1:
        kept = [part for part in seen if part[0] >= SEEN * seen[0][0]]
        if left_out := len(seen) - len(kept):
            notes = [f"{files[0]}: {left_out} frames with less than a tenth of the largest area are left out"]
        seen = [kept[0], kept[-1]] if len(kept) > 1 else kept
    else:
        seen.sort(key=lambda part: files.index(part[1]["file"]))
    if len(seen) != 2:
        raise ValueError(
            f"{results}: {structure} in two images, or in two frames of a clip, expected, got {len(seen)} of"
            f" {', '.join(files)}; choose others, or correct the masks."
        )
    first, second = (_outline(one, mask) for _, one, mask in seen)
    return (first, second), notes


def _told(path: Path, files: Sequence[str], structure: str) -> tuple[int, list[dict[str, Any]]]:
    """The structure's value, and the entries of the files that have a mask."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        names = {one["name"]: int(one["value"]) for one in told["structures"]}
        images = [one for one in told["images"] if one["file"] in files and not one["error"] and one.get("mask")]
        listed = {one["file"] for one in told["images"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: results of an inference expected, got {error!r}; run inference first.") from error
    if not names.get(structure):
        known = ", ".join(name for name, value in names.items() if value)
        raise ValueError(f"{path}: structure {structure!r} expected, got {known}; correct --structure.")
    if missing := [file for file in files if file not in listed]:
        raise ValueError(f"{path}: image {missing[0]} expected, got results without it; correct the name.")
    if len(set(files)) < len(files):
        raise ValueError(f"{path}: two images of a view expected, got {files[0]} twice; name both phases.")
    return names[structure], images


def _mask(results: Path, one: Mapping[str, Any], value: int) -> np.ndarray:
    """Where an image's mask file has the structure's value, (H, W) bool."""
    path = results / one["mask"]
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        shown = _size(results / one["overlay"]) if one.get("overlay") else pixels.shape[1::-1]
    except OSError as error:
        raise ValueError(f"{path}: mask expected, got {error}; run inference again, or put yours there.") from error
    if pixels.ndim != 2:
        raise ValueError(f"{path}: one channel of structure values expected, got {pixels.shape[2]}; save it as gray.")
    if shown != pixels.shape[1::-1]:
        sizes = [f"{width} x {height} pixels" for width, height in (shown, pixels.shape[1::-1])]
        raise ValueError(f"{path}: {sizes[0]} as the image has expected, got {sizes[1]}; save the mask at that size.")
    found = pixels == value
    if not found.any() and (others := sorted(set(np.unique(pixels).tolist()) - {0})) and max(others) > 127:
        raise ValueError(f"{path}: value {value} for the structure expected, got {others}; save it with that value.")
    return np.asarray(found)


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return int(picture.size[0]), int(picture.size[1])


def _outline(one: Mapping[str, Any], mask: np.ndarray) -> Outline:
    name = one["file"] if one.get("frame") is None else f"{one['file']} frame {one['frame']}"
    spacing = one["spacing_mm"]
    if spacing["row"] is None:
        raise ValueError(f"{name}: spacing expected, got none, so that nothing is in mm; infer with --spacing.")
    mm = float(spacing["row"]), float(spacing["column"])
    return Outline(name, mask, mm, spacing["source"], disks(mask, mm))


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
