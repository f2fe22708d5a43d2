# SPDX-License-Identifier: Apache-2.0
"""How scores grow with the labeled patients: subsets of a manifest, what their trainings found, and the plot."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np


@dataclass(frozen=True)
class Cell:
    """A training of the curve.

    Attributes:
        start: name of what the encoder starts from.
        percent: of the labeled patients.
        seed: of the choice of patients and of the training.
    """

    start: str
    percent: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder: ``distilled_5_0``."""
        return f"{self.start}_{self.percent:g}_{self.seed}"


def subset(manifest: Mapping[str, Any], *, root: Path, percent: float, seed: int) -> dict[str, Any]:
    """A manifest whose training split holds a share of the patients of each data set; the other splits stay whole.

    Patients are ordered by chance, data set by data set and class by class, so that a smaller share of the same seed is
    part of a larger one, and each class keeps a patient.

    Args:
        manifest: of ``bundle.data.manifest.read_datalist``.
        root: folder that its paths start from.
        percent: of the patients of each data set and class, above 0 and up to 100; one at least.
        seed: of the order.
    """
    random, strata = np.random.default_rng(seed), dict[tuple[str, str], list[str]]()
    for item in manifest["items"]:
        if item["split"] == "train":
            found = strata.setdefault((item["dataset"], item.get("class", "")), [])
            if item["group"] not in found:
                found.append(item["group"])
    kept: set[str] = set()
    for key in sorted(strata):
        groups = [strata[key][i] for i in random.permutation(len(strata[key]))]
        kept |= set(groups[: max(1, math.ceil(len(groups) * percent / 100))])
    items = [item for item in manifest["items"] if item["split"] != "train" or item["group"] in kept]
    return {**manifest, "root": str(root), "items": items}


def only_sets(manifest: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A manifest of some of its data sets.

    Raises:
        ValueError: when it has not all of them.
    """
    if unknown := sorted(set(names) - set(manifest["datasets"])):
        raise ValueError(f"data sets must be among {list(manifest['datasets'])}, got {unknown}; correct --datasets.")
    items = [item for item in manifest["items"] if item["dataset"] in names]
    return {**manifest, "datasets": {name: manifest["datasets"][name] for name in names}, "items": items}


def patients(manifest: Mapping[str, Any]) -> int:
    """Patients, or groups of near-duplicates, of the training split."""
    return len({item["group"] for item in manifest["items"] if item["split"] == "train"})


def scores(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of an evaluation's ``summary.json``: ``score`` (its name) and ``value``, ``low``, ``high``."""
    shown = {"dice": "Dice", "false_alarm_rate": "false alarms"}
    rows = [
        {"score": f"{entry['dataset']} {entry['structure']}, {name}", **_numbers(entry[key])}
        for entry in summary.get("segmentation", ())
        if entry["protocol"] == "native"
        for key, name in shown.items()
    ]
    rows += [
        {"score": f"{entry['label_set']}, AUROC", **_numbers(entry["auroc"])}
        for entry in summary.get("classification", ())
    ]
    return [row for row in rows if row["value"] is not None]


def _numbers(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {key: estimate[key] for key in ("value", "low", "high")}


def draw(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG: a panel for each score, a line for each start, its mean over the seeds and the range of their values."""
    names = list(dict.fromkeys(row["score"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.8), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        for start in dict.fromkeys(row["start"] for row in rows):
            values: dict[float, list[float]] = {}
            for row in rows:
                if (row["score"], row["start"]) == (name, start):
                    values.setdefault(float(row["percent"]), []).append(float(row["value"]))
            places = sorted(values)
            means = [float(np.mean(values[place])) for place in places]
            below = [mean - min(values[place]) for mean, place in zip(means, places, strict=True)]
            above = [max(values[place]) - mean for mean, place in zip(means, places, strict=True)]
            axis.errorbar(places, means, yerr=[below, above], marker="o", capsize=3, label=start)
        axis.set_xscale("log")
        ticks = sorted({float(row["percent"]) for row in rows})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xlabel("labeled patients, %")
        axis.set_title(name)
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()


def real_root(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """The folder that a manifest's paths start from."""
    return Path(os.path.normpath(os.path.join(os.path.realpath(folder), manifest["root"])))
