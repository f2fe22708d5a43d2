# SPDX-License-Identifier: Apache-2.0
"""Compares two evaluations of the same split, image by image: Dice per structure, with the interval of the change.

Each folder holds the per_image.csv that configs/evaluate.yaml writes. Only images that hold the structure count. Whole
patients are drawn for the 95 % interval, as in the evaluation itself. Several pairs, such as trainings from
several seeds (--more), are averaged image by image, and the change within each pair is told beside.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.metrics.bootstrap import Estimate, estimate, group_weights, mean_estimate  # noqa: E402
from bundle.tables import read_table  # noqa: E402

Key = tuple[str, str, str]
"""Data set, structure, image."""


def read_dice(folder: Path) -> dict[Key, tuple[float, str]]:
    """Dice and group of each structure that an image holds.

    Raises:
        ValueError: when the folder has no table of an evaluation.
    """
    path = folder / "per_image.csv"
    try:
        return {
            (row["dataset"], row["structure"], row["image"]): (float(row["dice"]), row["group"])
            for row in read_table(path)
            if row["protocol"] == "native" and row["present"] == "True"
        }
    except (OSError, KeyError, ValueError) as e:
        raise ValueError(f"{path}: the per_image.csv of an evaluation expected, got {e}; evaluate first.") from e


def mean_dice(evaluations: Sequence[Mapping[Key, tuple[float, str]]]) -> dict[Key, tuple[float, str]]:
    """Mean Dice over several evaluations, and group, of each structure that an image holds.

    Raises:
        ValueError: when they do not hold the same images.
    """
    for other in evaluations[1:]:
        _check_same(evaluations[0], other)
    return {
        key: (float(np.mean([dice[key][0] for dice in evaluations])), group)
        for key, (_, group) in evaluations[0].items()
    }


def _check_same(first: Mapping[Key, object], second: Mapping[Key, object]) -> None:
    if first.keys() != second.keys() or not first:
        odd = sorted(first.keys() ^ second.keys())[:1]
        raise ValueError(
            f"all evaluations must hold the same images, got {len(first)} and {len(second)}: {odd};"
            " evaluate the same split."
        )


def compare(
    first: Mapping[Key, tuple[float, str]], second: Mapping[Key, tuple[float, str]], *, resamples: int, seed: int
) -> list[tuple[str, int, float, float, Estimate]]:
    """A row per structure and one of their mean: name, images, both mean Dice, and the change with its interval.

    Raises:
        ValueError: when the two do not hold the same images.
    """
    _check_same(first, second)
    keys = sorted(first)
    groups = [first[key][1] for key in keys]
    weights = group_weights(groups, resamples=resamples, seed=seed)
    values = np.array([[first[key][0], second[key][0]] for key in keys])
    change = values[:, 1] - values[:, 0]
    rows, resampled = [], []
    for name in sorted({key[:2] for key in keys}):
        chosen = np.array([key[:2] == name for key in keys])
        own = [group for group, mine in zip(groups, chosen, strict=True) if mine]
        found = mean_estimate(change[chosen], own, resamples=resamples, seed=seed)
        before, after = values[chosen].mean(0)
        rows.append((" ".join(name), int(chosen.sum()), float(before), float(after), found))
        with np.errstate(invalid="ignore"):  # a resample without a patient of this set
            resampled.append(weights[:, chosen] @ change[chosen] / weights[:, chosen].sum(1))
    before, after = (float(np.mean([row[place] for row in rows])) for place in (2, 3))
    mean = estimate(after - before, np.mean(resampled, axis=0), groups=groups)
    return [*rows, ("mean of the structures", len(keys), before, after, mean)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="folder of one evaluation")
    parser.add_argument("second", type=Path, help="folder of the other one")
    parser.add_argument("--more", type=Path, nargs=2, action="append", default=[], metavar=("FIRST", "SECOND"))
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        pairs = [[read_dice(folder) for folder in pair] for pair in ((args.first, args.second), *args.more)]
        sides = [mean_dice(side) for side in zip(*pairs, strict=True)]
        rows = compare(*sides, resamples=args.resamples, seed=args.seed)
        single = [compare(*pair, resamples=1, seed=args.seed) for pair in pairs]
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    print("| structure | images | Dice, first | Dice, second | change | of each pair |\n|---|---|---|---|---|---|")
    for row, (name, count, before, after, change) in enumerate(rows):
        ends = "" if change["low"] is None else f" ({change['low']:+.3f} to {change['high']:+.3f})"
        each = ", ".join(f"{pair[row][4]['value']:+.3f}" for pair in single)
        print(f"| {name} | {count} | {before:.3f} | {after:.3f} | {change['value']:+.3f}{ends} | {each} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
