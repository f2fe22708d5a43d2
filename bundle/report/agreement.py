# SPDX-License-Identifier: Apache-2.0
"""How measured lengths agree with a reference: bias, limits of agreement, and the plot of Bland and Altman."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bundle.failures import named
from bundle.measures import gestational_age
from bundle.metrics.bootstrap import Estimate, estimate, group_weights
from bundle.palette import hex_color
from bundle.report.pictures import png
from bundle.tables import read_lines, read_table

TRIMESTERS = ((14.0, "first trimester"), (28.0, "second trimester"), (float("inf"), "third trimester"))
"""Weeks of gestation below which each one is (ACOG)."""

NO_AGE = "age outside the formula"


@dataclass(frozen=True)
class Pair:
    """A measured length and its reference, in mm.

    Attributes:
        image: its path.
        group: patient, or near-duplicates; drawn as one for intervals.
        stratum: what it is counted with besides all others; "" for none.
    """

    image: str
    group: str
    measured: float
    reference: float
    stratum: str = ""


class Measured(NamedTuple):
    """Lengths of an evaluation.

    Attributes:
        pairs: of images whose prediction and mask have a length.
        missed: how many images have one in the mask alone.
        images: all of the evaluation, of the chosen data set.
    """

    pairs: list[Pair]
    missed: int
    images: list[str]


def read_pairs(folder: Path, *, structure: str, length: str, dataset: str | None = None) -> Measured:
    """The pairs of an evaluation's ``per_image.csv``, its reference masks measured alike.

    Args:
        folder: of the evaluation.
        structure: whose length.
        length: of ``bundle.measures.LENGTHS``.
        dataset: only images of this one; None: all.

    Raises:
        ValueError: when there is no such table, data set or structure, or no image with a spacing shows it.
    """
    path = folder / "per_image.csv"
    pairs, missed = [], 0
    try:
        native = [row for row in read_table(path) if row["protocol"] == "native"]
        rows = [row for row in native if dataset in (None, row["dataset"])]
        for row in rows:
            if row["structure"] == structure and row[f"true_{length}_mm"]:
                missed += not row[f"{length}_mm"]
                if row[f"{length}_mm"]:
                    values = float(row[f"{length}_mm"]), float(row[f"true_{length}_mm"])
                    pairs.append(Pair(row["image"], row["group"], *values))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: per_image.csv of an evaluation with lengths expected, got {error!r}; evaluate first."
        ) from error
    _check_told("--dataset", dataset, [row["dataset"] for row in native], path)
    _check_told("--structure", structure, [row["structure"] for row in rows], path)
    if not pairs:
        raise ValueError(
            f"{path}: images with a spacing that show {structure!r} expected, got none; evaluate a data set whose pixel"
            " sizes are known."
        )
    return Measured(pairs, missed, list(dict.fromkeys(row["image"] for row in rows)))


def with_reference(
    found: Measured, table: Path, *, column: str, name: str = "filename"
) -> tuple[list[Pair], list[str]]:
    """The pairs with the figures of a table in place of the masks', and notes on images that get none.

    A row tells of the image whose path it has, or ends with: a name that several images have is none's own.

    Args:
        found: of ``read_pairs``.
        table: CSV with a row for each image.
        column: of the reference, in mm.
        name: of the column with the images' file names or paths.

    Raises:
        ValueError: when it is no such table, tells two figures of an image, or names none of the images.
    """
    figures, several = _figures_of(found.images, table, column=column, name=name)
    pairs = [replace(pair, reference=figures[pair.image]) for pair in found.pairs if pair.image in figures]
    notes = []
    if several:
        notes.append(
            f"{len(several)} rows of {table} must name one image each, got names that several have, and tell of none:"
            f" {named(several)}; write paths as in per_image.csv"
        )
    if not pairs:
        raise ValueError(
            f"{table}: file names of the evaluated images expected, or ends of their paths as in per_image.csv, got"
            f" none of them; correct --name or the table.{''.join(f' {note}.' for note in notes)}"
        )
    if len(pairs) < len(found.pairs):
        notes.append(f"{len(found.pairs) - len(pairs)} images are not in {table} and are left out")
    return pairs, notes


def _figures_of(images: Sequence[str], table: Path, *, column: str, name: str) -> tuple[dict[str, float], list[str]]:
    """Image -> its figure, and the names in the table that several images have."""
    of_name: dict[str, list[PurePosixPath]] = {}
    for image in images:
        of_name.setdefault(PurePosixPath(image).name, []).append(PurePosixPath(image))
    figures: dict[str, float] = {}
    several: dict[str, None] = {}
    for number, row in read_lines(table):
        try:
            file, value = PurePosixPath(row[name].strip().replace("\\", "/")), float(row[column])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{table}, line {number}: columns {name} and {column} with a number expected, got {error!r}; correct"
                " --name, --column or the table."
            ) from error
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{table}, line {number}: mm above 0 expected, got {row[column]}; correct the table.")
        some = [image for image in of_name.get(file.name, []) if image.parts[-len(file.parts) :] == file.parts]
        some = [file] if file in some else some
        if len(some) > 1:
            several[str(file)] = None
        elif some and figures.setdefault(str(some[0]), value) != value:
            raise ValueError(f"{table}, line {number}: one figure of {some[0]} expected, got two; correct the table.")
    return figures, list(several)


def _check_told(option: str, told: str | None, there: Sequence[str], path: Path) -> None:
    """Raises a ValueError with the names that are there when the told one is not."""
    if told is not None and told not in there:
        names = ", ".join(dict.fromkeys(there)) or "no row"
        raise ValueError(f"{path}: {names} to choose from, got {option} {told}; correct it.")


def by_trimester(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, which are head circumferences, in the trimesters that their references tell."""
    return [Pair(p.image, p.group, p.measured, p.reference, _trimester(p.reference)) for p in pairs]


def _trimester(hc_mm: float) -> str:
    age = gestational_age(hc_mm)
    if age is None:
        return TRIMESTERS[0][1] if hc_mm < 100 else NO_AGE
    return next(name for below, name in TRIMESTERS if age[0] < below)


def agreement(pairs: Sequence[Pair], *, resamples: int, seed: int) -> dict[str, Any]:
    """Mean absolute error, bias (mean of measured - reference), its standard deviation and the limits of agreement.

    In mm, each with a 95 % interval in which whole groups are drawn. The limits are bias -+ 1.96 standard deviations.

    Reference: J. M. Bland, D. G. Altman, Statistical methods for assessing agreement between two methods of clinical
    measurement, Lancet 327, 1986, 307-310.
    """
    error = np.array([pair.measured - pair.reference for pair in pairs])
    groups = [pair.group for pair in pairs]
    weights = group_weights(groups, resamples=resamples, seed=seed)
    found: dict[str, Any] = {"images": len(pairs), "patients": len(set(groups))}
    values, resampled = _figures(error, np.ones((1, len(error)))), _figures(error, weights)
    return {**found, **{key: estimate(float(values[key][0]), resampled[key], groups=groups) for key in values}}


def _figures(error: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    total = weights.sum(1)
    bias = weights @ error / total
    with np.errstate(invalid="ignore", divide="ignore"):  # one image has no standard deviation
        spread = np.sqrt((weights @ error**2 - total * bias**2).clip(0) / (total - 1))
    return {
        "mean_absolute_error": weights @ np.abs(error) / total,
        "bias": bias,
        "standard_deviation": spread,
        "lower_limit": bias - 1.96 * spread,
        "upper_limit": bias + 1.96 * spread,
    }


def draw(pairs: Sequence[Pair], found: Mapping[str, Any], *, title: str) -> bytes:
    """A PNG: the difference of each pair over its mean, the bias and the limits of agreement with their intervals."""
    figure = Figure(figsize=(7.2, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, name in enumerate(sorted({pair.stratum for pair in pairs}), start=1):
        own = [pair for pair in pairs if pair.stratum == name]
        means = [(pair.measured + pair.reference) / 2 for pair in own]
        axes.scatter(
            means, [pair.measured - pair.reference for pair in own], s=14, color=hex_color(number), label=name or None
        )
    for key, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
        line: Estimate = found[key]
        if line["value"] is None:
            continue
        axes.axhline(line["value"], color="black", linestyle=style, linewidth=1)
        axes.annotate(
            f"{key.replace('_', ' ')} {line['value']:+.2f}", (1.0, line["value"]), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=8,
        )  # fmt: skip
        if line["low"] is not None and line["high"] is not None:
            axes.axhspan(line["low"], line["high"], color="black", alpha=0.08, linewidth=0)
    axes.set_xlabel("mean of measured and reference, mm")
    axes.set_ylabel("measured - reference, mm")
    axes.set_title(title, fontsize=10)
    if any(pair.stratum for pair in pairs):
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return png(figure)
