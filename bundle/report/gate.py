# SPDX-License-Identifier: Apache-2.0
"""What a gate by the task ``presence`` costs and saves: Dice against false alarms at each threshold."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bundle.files import writable_folder
from bundle.networks.weights import read_checkpoint, tensors_sha256
from bundle.palette import hex_color
from bundle.report.pictures import png
from bundle.tables import read_table
from bundle.tasks.masks import PRESENCE


@dataclass(frozen=True)
class Curve:
    """A structure's images at each threshold, ascending; the first threshold is 0, which lets everything pass.

    Attributes:
        thresholds: least probability of its presence with which a structure is shown.
        dice: mean over the images that hold it.
        false_alarms: share of the other images that show it.
        present, absent: numbers of these images.
    """

    thresholds: np.ndarray
    dice: np.ndarray
    false_alarms: np.ndarray
    present: int
    absent: int

    def choose(self, tolerance: float, remaining: float = 0.0) -> int:
        """Place of a threshold whose Dice is lower by at most ``tolerance``.

        It is the lowest whose false alarms are at most ``remaining`` of those without a gate. Where none has so few,
        and so with 0, it is that with the fewest; of equals the lowest.

        Args:
            tolerance: of mean Dice, in [0, 1].
            remaining: share of the false alarms, in [0, 1].

        Raises:
            ValueError: when one of them is outside.
        """
        for name, value in (("tolerance", tolerance), ("remaining", remaining)):
            if not 0 <= value <= 1:
                raise ValueError(f"--{name} must be in [0, 1], got {value}; correct it.")
        allowed = np.flatnonzero(self.dice >= self.dice[0] - tolerance - 1e-12)
        alarms = self.false_alarms[allowed]
        few = max(float(alarms.min()), remaining * float(self.false_alarms[0]) + 1e-12)
        return int(allowed[np.argmax(alarms <= few)])


def curve(cases: Sequence[tuple[bool, float, bool, float]]) -> Curve:
    """The curve of one structure.

    Args:
        cases: (is there, Dice, is shown, probability that it is there) of each image.

    Raises:
        ValueError: when there are no images with it, or none without.
    """
    there, dice, shown, probability = (np.array(values, dtype=np.float64) for values in zip(*cases, strict=True))
    present, absent = there > 0, there == 0
    if not present.any() or not absent.any():
        raise ValueError(f"images with and without the structure expected, got {int(present.sum())} of {len(cases)}.")
    levels = np.unique(probability)
    thresholds = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2])
    passes = probability[None] >= thresholds[:, None]  # (thresholds, images)
    return Curve(
        thresholds,
        np.asarray((passes * dice)[:, present].mean(1)),
        np.asarray((passes * shown)[:, absent].mean(1)),
        int(present.sum()),
        int(absent.sum()),
    )


def read_curves(folder: Path) -> dict[str, Curve]:
    """Structure -> curve, of an evaluation without a gate; structures that all images show, or none, are left out.

    Raises:
        ValueError: when the folder has no tables of an evaluation with the task ``presence``, or no structure is left.
    """
    try:
        rows = [row for row in read_table(folder / "per_image.csv") if row["protocol"] == "native"]
        known = read_table(folder / "per_image_presence.csv")
        probability = {(row["image"], row["structure"]): float(row["probability"]) for row in known}
        cases: dict[str, list[tuple[bool, float, bool, float]]] = {}
        for row in rows:
            key = (row["image"], row["structure"])
            if key in probability:
                case = (row["present"] == "True", float(row["dice"]), int(row["pred_pixels"]) > 0, probability[key])
                _check_case(case, key)
                cases.setdefault(row["structure"], []).append(case)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{folder}: per_image.csv and per_image_presence.csv of an evaluation expected, got {error}; evaluate"
            " first."
        ) from error
    curves = {name: curve(found) for name, found in cases.items() if len({there for there, *_ in found}) == 2}
    if not curves:
        raise ValueError(
            f"{folder}: a structure that some images show and others do not expected, got none of {list(cases)};"
            " evaluate a split with both kinds of images."
        )
    return curves


def _check_case(case: tuple[bool, float, bool, float], key: tuple[str, str]) -> None:
    there, dice, _, probability = case
    if not 0 <= probability <= 1 or (there and not 0 <= dice <= 1):
        raise ValueError(f"probability {probability} and Dice {dice} of {key[1]} in {key[0]}, which are not in [0, 1]")


def read_summary(folder: Path) -> dict[str, Any]:
    """What an evaluation says of itself, once it is of the validation split and without a gate.

    Raises:
        ValueError: when it is another one.
    """
    path, again = folder / "summary.json", "evaluate with --split val --gate '$None'."
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        split, gate = summary["split"], summary["gate"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: split and gate of an evaluation expected, got {error!r}; {again}") from error
    if split != "val":
        raise ValueError(f"{path}: the validation split (val) expected, got {split!r}; {again}")
    if gate:
        raise ValueError(f"{path}: an evaluation without a gate expected, got one with {gate}; {again}")
    return summary


def read_weights(path: Path, summary: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and ``network_config`` of the checkpoint that was evaluated; it may tell another gate by now.

    Args:
        path: the checkpoint, which is to be replaced.
        summary: of ``read_summary``.

    Raises:
        OSError: when it cannot be replaced, or read.
        ValueError: when it is no checkpoint, was not the evaluated one, or has no output for the presence.
    """
    state, config = read_checkpoint(path)
    if PRESENCE not in config["heads"]:
        raise ValueError(
            f"{path}: weights with the output {PRESENCE!r} expected, which a gate reads, got {list(config['heads'])};"
            " train with the task presence."
        )
    if tensors_sha256(path) != summary.get("tensors_sha256"):
        raise ValueError(
            f"{path}: the evaluated weights expected (file with SHA-256 {summary.get('weights_sha256')}), got weights"
            " with other tensors; evaluate these first, or name those."
        )
    if not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
        raise PermissionError(
            f"{path}: weights that can be written expected, got a read-only file; copy it or unlock it."
        )
    writable_folder(str(path.parent), options="--weights")
    return state, config


def draw_curves(curves: Mapping[str, Curve], gate: Mapping[str, float]) -> bytes:
    """A PNG file: Dice over the false alarms of each structure, with a point at the gate's threshold."""
    figure = Figure(figsize=(6.4, 4.2), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, found) in enumerate(curves.items(), start=1):
        color = hex_color(number)
        axes.plot(
            found.false_alarms, found.dice, color=color, label=f"{name} ({found.present} with, {found.absent} without)"
        )
        if name in gate:
            place = int(np.searchsorted(found.thresholds, gate[name]))
            place = min(place, len(found.thresholds) - 1)
            axes.plot(found.false_alarms[place], found.dice[place], "o", color=color)
    axes.set_xlabel("share of images without the structure that show it")
    axes.set_ylabel("mean Dice of images with the structure")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    return png(figure)
