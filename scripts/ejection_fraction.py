# SPDX-License-Identifier: Apache-2.0
"""Volumes and ejection fraction of a left ventricle by the method of disks, of apical views that inference segmented.

  python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir DIR --ckpt_path HEART.pt
  python scripts/ejection_fraction.py output --structure lv --four a4c.mp4 --two a2c.mp4
  python scripts/ejection_fraction.py output --structure lv --four a4c_ed.png a4c_es.png

A view is a clip, of which the frames with the largest and the smallest area are end-diastole and end-systole, or two
images, end-diastole first; names are those of predictions.csv. With one view the disks are taken for circles. The pixel
spacing is that of the results. Writes ejection_fraction.json and .png to the folder of the results. The shipped weights
know no heart: train with your own labels first, or put your own masks in place of the predicted ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.report.ventricle import PHASES, draw, read_view, volumes  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of an inference")
    parser.add_argument("--structure", required=True, help="name of the ventricle among the structures")
    parser.add_argument("--four", nargs="+", required=True, metavar="FILE", help="four-chamber view: clip, or ED ES")
    parser.add_argument("--two", nargs="+", metavar="FILE", help="two-chamber view: clip, or ED ES")
    args = parser.parse_args(arguments)
    for name in ("four", "two"):
        if len(getattr(args, name) or [""]) > 2:
            parser.error(f"--{name} takes a clip, or two images, got {len(getattr(args, name))} names")
    try:
        return _run(args)
    except Exception as error:
        return failed(error, status=2)


def _run(args: argparse.Namespace) -> int:
    read = [read_view(args.results, files, structure=args.structure) for files in (args.four, args.two) if files]
    views = [view for view, _ in read]
    found = volumes(views)
    found["notes"] += [note for _, notes in read for note in notes]
    for phase in PHASES:
        axes = ", ".join(f"{axis:.1f}" for axis in found[phase]["long_axes_mm"])
        print(f"{phase}: {found[phase]['volume_ml']:.1f} mL, axis {axes} mm: {', '.join(found[phase]['images'])}")
    print(f"ejection fraction: {found['ejection_fraction_percent']:.1f} % ({found['method']})")
    for note in found["notes"]:
        print(f"note: {note}")
    folder = OutputFolder(args.results)
    files = {
        "ejection_fraction.json": (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode(),
        "ejection_fraction.png": draw(views, found),
    }
    folder.check(files)
    for file, content in files.items():
        print(f"written: {folder.write(file, content)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
