# SPDX-License-Identifier: Apache-2.0
"""How lengths in predicted masks agree with a reference: mean absolute error, bias, limits of agreement, and a plot.

Takes an evaluation, whose per_image.csv has the lengths of predictions and masks where the pixel spacing is known:

  python -m monai.bundle run --config_file "['configs/train.yaml','configs/evaluate.yaml']" --dataset_dir DIR
  python scripts/agreement.py eval --structure head --length circumference \\
      --reference pixel_size_and_HC.csv --column head_circumference_mm --trimesters

The reference is the mask, measured alike, or with --reference a table of what a person measured. It names images by
file name, or by the path in per_image.csv or its end where several images have a name. The command writes
agreement_STRUCTURE_LENGTH.csv (an image a row) and .png (Bland and Altman's plot) to the folder of the evaluation.
Intervals are over patients: images of one are drawn together. Missed structures have no length; they are counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.failures import failed, one_line  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.measures import LENGTHS  # noqa: E402
from bundle.metrics import table  # noqa: E402
from bundle.report.agreement import agreement, by_trimester, draw, read_pairs, with_reference  # noqa: E402
from bundle.tables import csv_table  # noqa: E402

_FIGURES = ("mean_absolute_error", "bias", "standard_deviation", "lower_limit", "upper_limit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="folder of an evaluation")
    parser.add_argument("--structure", required=True, help="whose length")
    parser.add_argument("--length", choices=LENGTHS, default="long_axis", help="default: %(default)s")
    parser.add_argument("--dataset", help="only images of this data set (default: all)")
    parser.add_argument("--reference", type=Path, metavar="FILE.csv", help="what a person measured, in mm")
    parser.add_argument("--column", help="of --reference with the length in mm")
    parser.add_argument(
        "--name", default="filename", help="column of --reference with file names or paths (default %(default)s)"
    )
    parser.add_argument("--trimesters", action="store_true", help="by the age that the reference, an HC, tells")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals (default %(default)s)")
    args = parser.parse_args(arguments)
    if (args.reference is None) != (args.column is None):
        parser.error("--reference and --column go together")
    if args.resamples < 1 or args.seed < 0:
        parser.error("--resamples must be 1 or more and --seed 0 or more")
    try:
        return _run(args)
    except Exception as error:
        return failed(error, status=2)


def _run(args: argparse.Namespace) -> int:
    measured = read_pairs(args.evaluation, structure=args.structure, length=args.length, dataset=args.dataset)
    pairs = measured.pairs
    if args.reference is not None:
        pairs, notes = with_reference(measured, args.reference, column=args.column, name=args.name)
        for note in notes:
            print(one_line(f"note: {note}"))
    if args.trimesters:
        pairs = by_trimester(pairs)
    found = agreement(pairs, resamples=args.resamples, seed=args.seed)
    strata = sorted({pair.stratum for pair in pairs} - {""})
    rows = [_row("all", found)]
    for name in strata:
        own = [pair for pair in pairs if pair.stratum == name]
        rows.append(_row(name, agreement(own, resamples=args.resamples, seed=args.seed)))
    names = [name.replace("_", " ") for name in _FIGURES]
    print("\n".join(table(["mm, 95 % interval by patient", "images", "patients", *names], rows)))
    print(f"missed: {measured.missed} images whose mask has the structure and whose prediction does not")
    stem, folder = f"agreement_{args.structure}_{args.length}", OutputFolder(args.evaluation)
    files = {
        f"{stem}.csv": csv_table([asdict(pair) for pair in pairs]),
        f"{stem}.png": draw(pairs, found, title=f"{args.structure}, {args.length.replace('_', ' ')}"),
    }
    folder.check(files)
    for file, content in files.items():
        print(f"written: {folder.write(file, content)}")
    return 0


def _row(name: str, found: dict[str, Any]) -> list[str]:
    return [name, str(found["images"]), str(found["patients"]), *(_figure(found[key]) for key in _FIGURES)]


def _figure(value: dict[str, float | None]) -> str:
    if value["value"] is None:
        return "-"
    ends = "" if value["low"] is None else f" ({value['low']:.2f} to {value['high']:.2f})"
    return f"{value['value']:.2f}{ends}"


if __name__ == "__main__":
    sys.exit(main())
