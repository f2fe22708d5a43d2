# SPDX-License-Identifier: Apache-2.0
"""Would a few still frames have told the same as the whole clip? Sensitivity, specificity and McNemar's test.

  python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir CLIPS --position breast
  python scripts/clip_frames.py output --truth truth.csv --label_set breast --positive malignant --frames 1 3 5

The truth is a table with the columns file (as in clips.csv), class and, if patients have several clips, patient (or the
other names that prepare_data.py --clips knows, such as patient_id). Its classes are those of the label set. A clip is
positive when the mean probability of the positive classes over its frames reaches --threshold. Compared with all frames
are so many evenly spaced ones, and the key frame, which shows the largest area of all structures. Clips that the table
names but that have no frame with an answer are counted, not scored.

Writes clip_frames.csv to the folder of the results. Choose the threshold on other clips than these.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.failures import failed, named  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.metrics import table  # noqa: E402
from bundle.metrics.tables import number  # noqa: E402
from bundle.report.stills import KEY, WHOLE, compare, read_clips  # noqa: E402
from bundle.tables import csv_table  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of an inference on clips")
    parser.add_argument("--truth", type=Path, required=True, metavar="FILE.csv", help="columns file, class, patient")
    parser.add_argument("--label_set", required=True, help="whose classes they are, such as breast")
    parser.add_argument("--positive", nargs="+", required=True, metavar="CLASS", help="classes that are a finding")
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 3, 5], help="how many stills (default 1 3 5)")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability from which on (default %(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals (default %(default)s)")
    args = parser.parse_args(arguments)
    if min(args.frames) < 1 or args.resamples < 1 or args.seed < 0 or not 0 < args.threshold < 1:
        parser.error("--frames and --resamples must be 1 or more, --seed 0 or more, --threshold between 0 and 1")
    try:
        return _run(args)
    except Exception as error:
        return failed(error, status=2)


def _run(args: argparse.Namespace) -> int:
    clips, unseen, others = read_clips(args.results, args.truth, label_set=args.label_set, positive=args.positive)
    rows = []
    for frames in (WHOLE, KEY, *dict.fromkeys(args.frames)):
        found = compare(clips, frames, threshold=args.threshold, resamples=args.resamples, seed=args.seed)
        rows.append(_row(frames if isinstance(frames, str) else f"{frames} evenly spaced", found))
    names = list(rows[0])
    print("\n".join(table(names, [[_text(row[name]) for name in names] for row in rows])))
    print(f"{len(clips)} clips of {len({clip.patient for clip in clips})} patients; 95 % intervals by patient")
    if unseen:
        print(f"without an answer: {named(unseen)}")
    if others:
        print(f"not in {args.truth}: {named(others)}")
    print(f"written: {OutputFolder(args.results).write('clip_frames.csv', csv_table(rows))}")
    return 0


def _row(frames: str, found: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"frames": frames}
    for name, one in found.items():
        row |= {
            name: number(one["share"]), f"{name}: clips": one["clips"], f"{name}: lost": one["worse"],
            f"{name}: won": one["better"], f"{name}: p": round(one["p"], 4),
        }  # fmt: skip
    return row


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
