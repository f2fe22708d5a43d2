# SPDX-License-Identifier: Apache-2.0
"""Key points of images: from a CSV file, or the ends of the axes of what a mask outlines."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import regionprops
from tqdm import tqdm

from bundle.described import EXPRESSION_MARKS
from bundle.failures import named
from bundle.transforms import LoadMaskd
from bundle.transforms.readers import read_file

AXES = ("long_axis_1", "long_axis_2", "short_axis_1", "short_axis_2")
"""Ends of the two axes of an ellipse."""

COLUMNS = ("image", "point", "row", "column")

Places = dict[str, "list[float] | None"]


def read_points(path: str | Path) -> dict[str, Places]:
    """Image -> point -> [row, column], None for a point that is not in the image.

    Args:
        path: CSV with the columns image (path relative to the file's folder), point, row and column in pixels from the
            middle of the first one; both are empty for a point that is known not to be in the image. An image and a
            point that no line names are not labeled.

    Raises:
        ValueError: when the file cannot be read, or a line is not of this form; it is named.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: points must be a readable CSV file, got {error}; correct --points.") from error
    if not set(COLUMNS) <= set(columns) or len(set(columns)) < len(columns):
        raise ValueError(f"{path}: columns must be {', '.join(COLUMNS)}, got {columns}; correct the first line.")
    if not lines:
        raise ValueError(f"{path}: expected lines of points below the first one, got none; add them.")
    found: dict[str, Places] = {}
    for number, cells in lines:
        where = f"{path}, line {number}"
        if len(cells) != len(columns):
            raise ValueError(
                f"{where}: {len(columns)} cells expected, as in the first line, got {len(cells)}: {cells}; correct it"
                " (numbers have a decimal point)."
            )
        line = dict(zip(columns, cells, strict=True))
        image, point = _names(line, where=where)
        points = found.setdefault(os.path.realpath(Path(path).parent / image), {})
        if point in points:
            raise ValueError(
                f"{where}: each point of an image must have one line, got another {point!r} of {image!r}; remove one."
            )
        points[point] = _place(line, where=where)
    return found


def _names(line: Mapping[str, str], *, where: str) -> tuple[str, str]:
    """The image and the point of a line."""
    image, point = line["image"], line["point"]
    if not image.strip() or "\0" in image:
        raise ValueError(f"{where}: the path of an image expected, got {image!r}; correct it.")
    if not point or point != point.strip() or not point.isprintable() or point.startswith(EXPRESSION_MARKS):
        raise ValueError(
            f"{where}: each point of an image must have a name, without blanks around it, control characters, and"
            f" {' '.join(EXPRESSION_MARKS)} at its start, got {point!r} of {image!r}; correct it."
        )
    return image, point


def _place(line: Mapping[str, str], *, where: str) -> list[float] | None:
    given = [line[key].strip() for key in ("row", "column")]
    if given == ["", ""]:
        return None
    try:
        place = [float(text) for text in given]
    except ValueError:
        place = [math.nan]
    if not all(map(math.isfinite, place)):
        raise ValueError(f"{where}: row and column must be two numbers, or both empty, got {given}; correct them.")
    return place


def add_points(items: Sequence[dict[str, Any]], points: Mapping[str, Places], *, root: str, path: str | Path) -> None:
    """Adds ``points`` to items of a manifest.

    Args:
        items: whose images are relative to ``root``; they change.
        points: of ``read_points``.
        root: of the manifest.
        path: of the points' file, for the message.

    Raises:
        ValueError: when images of the points are in no item, or a point is outside its image.
    """
    places = {os.path.realpath(os.path.join(root, item["image"])): item for item in items}
    if missing := [image for image in points if image not in places]:
        raise ValueError(
            f"{path}: images must be in the manifest, got {len(missing)} that are not, {named(missing)}; correct their"
            " paths, which are relative to the file's folder."
        )
    for image, found in points.items():
        _check_inside(found, image=image, path=path)
        places[image]["points"] = {**places[image].get("points", {}), **found}


def _check_inside(points: Places, *, image: str, path: str | Path) -> None:
    """Raises a ValueError that names a point outside its image."""
    told = {name: place for name, place in points.items() if place}
    height, width = read_file(image).pixels.shape[:2] if told else (0, 0)
    for name, (row, column) in told.items():
        if not (-0.5 <= row <= height - 0.5 and -0.5 <= column <= width - 0.5):
            raise ValueError(
                f"{path}: point {name!r} of {image}: a row from 0 to {height - 1} and a column from 0 to {width - 1}"
                f" expected, got row {row:g}, column {column:g}; correct them, or leave both empty where the point is"
                " not in the image."
            )


def axis_ends(mask: np.ndarray) -> Places:
    """The ends of the axes of the ellipse that has the moments of a mask (H, W); nothing for an empty or cut one.

    Where the mask touches the border of the image, the ellipse would be that of a part.
    """
    inside = np.asarray(mask) > 0
    if not inside.any() or inside[[0, -1]].any() or inside[:, [0, -1]].any():
        return {}
    (region,) = regionprops(inside.astype(np.uint8))
    (row, column), angle = region.centroid, region.orientation  # of the long axis from the rows' axis, in radians
    found = {}
    for names, length, turn in (
        (AXES[:2], region.axis_major_length, angle),
        (AXES[2:], region.axis_minor_length, angle + math.pi / 2),
    ):
        step = length / 2 * np.array([math.cos(turn), math.sin(turn)])
        for name, side in zip(names, (-1, 1), strict=True):
            found[name] = [round(float(v), 3) for v in (row + side * step[0], column + side * step[1])]
    return dict(found)


def add_axes(manifest: Mapping[str, Any], structure: str, *, root: str) -> int:
    """Adds the ends of the axes of a structure to the items with a mask of it; gives their number.

    Args:
        manifest: whose items change.
        structure: its name in the manifest.
        root: of its paths.

    Raises:
        ValueError: when no data set has such a structure.
    """
    tables = {
        name: {int(value): int(label == structure) for value, label in entry.get("mask_values", {}).items()}
        for name, entry in manifest["datasets"].items()
    }
    if not any(1 in table.values() for table in tables.values()):
        known = sorted(
            {label for entry in manifest["datasets"].values() for label in entry.get("mask_values", {}).values()}
        )
        raise ValueError(f"--axes must name a structure of the masks {known}, got {structure!r}; correct it.")
    load, count = LoadMaskd(num_structures=2), 0
    wanted = [item for item in manifest["items"] if item.get("label") and 1 in tables[item["dataset"]].values()]
    for item in tqdm(wanted, desc="measuring axes", unit="image", leave=False):
        labels = item["label"] if isinstance(item["label"], list) else [item["label"]]
        entry = manifest["datasets"][item["dataset"]]
        paths = {"image": os.path.join(root, item["image"]), "label": [os.path.join(root, path) for path in labels]}
        options = {key: entry[key] for key in ("mask_kind", "mask_scaled", "mask_threshold") if key in entry}
        mask = load({**paths, **options, "mask_values": tables[item["dataset"]]})["label"][0].numpy()
        if ends := axis_ends(mask):
            item["points"] = {**item.get("points", {}), **ends}
            count += 1
    return count
