# SPDX-License-Identifier: Apache-2.0
"""The volume of a structure in a sweep of parallel slices, from one click in one of them.

  python scripts/sweep_volume.py sweep.mp4 --structure lesion --click 40 212 130 --slice_distance 0.5 --spacing 0.1
  python scripts/sweep_volume.py SLICES --structure lesion --click 12 212 130 --click 30 190 120 --slice_distance 1

A sweep is a clip, a DICOM file of several frames, or a folder of slices in the order of their names. A click is the
number of the slice, from 0, and x and y in its pixels. It is carried from slice to slice until the structure ends;
further clicks mend slices in which it went astray, --first and --last bound it. The volume is the sum of the areas
times the distance of the slices. The probe must have moved straight and evenly.

Writes masks (NAME_mask.png), slices.csv, volume.json and sweep.png, outlines on the slices, to --output_dir.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.failures import failed  # noqa: E402
from bundle.live.sweep import Sweep, measure  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(arguments)
    try:
        clicks: dict[int, list[tuple[float, float]]] = {}
        for number, x, y in args.click:
            if not all(map(math.isfinite, (number, x, y))) or number != int(number):
                raise ValueError(
                    f"click must be a whole slice and a place, got {number:g} {x:g} {y:g}; correct --click."
                )
            clicks.setdefault(int(number), []).append((y, x))
        spacing = args.spacing if args.spacing is None or len(args.spacing) > 1 else args.spacing[0]
        changes = {"position": args.position, "spacing": spacing, "ckpt_path": args.ckpt_path}
        sweep = Sweep(ROOT, args.sweep, structure=args.structure, output_dir=args.output_dir, **changes)
        found = measure(sweep, clicks, distance=args.slice_distance, first=args.first, last=args.last)
    except Exception as error:
        return failed(error, status=2)
    print(
        f"{args.structure}: {found['volume_ml']:.3f} mL in {found['slices']} of {len(sweep)} slices"
        f" ({found['first_slice']} to {found['last_slice']}), spacing of {found['spacing_source']}"
    )
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"written: {args.output_dir}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="clip, DICOM file of several frames, or folder of slices")
    parser.add_argument("--structure", required=True, help="what was clicked at")
    parser.add_argument(
        "--click", nargs=3, type=float, action="append", required=True, metavar=("SLICE", "X", "Y"), help="repeatable"
    )
    parser.add_argument("--slice_distance", type=float, required=True, metavar="MM", help="between neighbors, in mm")
    parser.add_argument("--spacing", type=float, nargs="+", metavar="MM", help="mm of a pixel, or of rows and columns")
    parser.add_argument("--first", type=int, default=0, help="first slice that is looked at (default %(default)s)")
    parser.add_argument("--last", type=int, help="last one (default: the last of the sweep)")
    parser.add_argument("--position", help="organ (default: that of the structure)")
    parser.add_argument("--ckpt_path", type=Path, help="weights (default: models/model.pt)")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/sweep", help="default: output/sweep")
    return parser


if __name__ == "__main__":
    sys.exit(main())
