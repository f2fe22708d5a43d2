# SPDX-License-Identifier: Apache-2.0
"""Measures how cost grows with the data, the folder, the image and the processes; writes figures and plots."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.files import OutputFolder  # noqa: E402
from scripts.growth_parts import manifests, runs  # noqa: E402
from scripts.growth_parts.isolated import Row  # noqa: E402
from scripts.growth_parts.plots import draw  # noqa: E402

PARTS = {
    "manifest": "a manifest of 10,000 to 1,000,000 made-up items: write, read, split, load, near-duplicates",
    "inference": "configs/inference.yaml over a folder of 100 to 10,000 images",
    "size": "the network on images of 224 to 1024 pixels, in batches of 1 to 64",
    "processes": "configs/train.yaml on the phantom with one process, and with two on the same cores",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(arguments)
    report = args.output / "growth.json"
    result = json.loads(report.read_text()) if report.is_file() else {}
    folder = OutputFolder(args.output, option="--output")
    plots = OutputFolder(args.images_to or args.output, option="--images-to")
    folder.check([report.name])
    plots.check(f"growth_{part}.png" for part in args.parts)
    for part in args.parts:
        rows = _measure(part, args)
        result[part] = {"quick": args.quick, "cores": os.cpu_count(), "rows": rows}
        folder.write(report.name, (json.dumps(result, indent=1) + "\n").encode())
        for row in rows:
            print("  ".join(f"{key} {_text(value)}" for key, value in row.items()), flush=True)
        print(plots.write(f"growth_{part}.png", draw(part, rows)), flush=True)
    print(f"All figures: {report}")
    return 0


def _measure(part: str, args: argparse.Namespace) -> list[Row]:
    if part == "manifest":
        return manifests.measure(args.items or ((1000, 10_000) if args.quick else (10_000, 100_000, 1_000_000)),
                                 seed=args.seed)  # fmt: skip
    if part == "inference":
        sizes = args.items or ((10, 40) if args.quick else (100, 1000, 10_000))
        return runs.measure_inference(sizes, images=args.images)
    if part == "size":
        sides, batches = ((224, 448), (1, 4)) if args.quick else ((224, 384, 512, 768, 1024), (1, 4, 16, 64))
        return runs.measure_size(sides, batches, seed=args.seed)
    return runs.measure_processes(samples=32 if args.quick else 480, data=args.phantom)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lines = "\n".join(f"  {name:12}{text}" for name, text in PARTS.items())
    parser.epilog = f"parts:\n{lines}\n\nEach step has its own process. Keep the machine free of other work meanwhile."
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    parser.add_argument("--items", type=int, nargs="+", help="other sizes, of the parts manifest and inference")
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "phantom" / "images", help="of inference")
    parser.add_argument("--phantom", type=Path, default=ROOT / "data" / "phantom", help="of training; made when absent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "runs", help="folder of growth.json (default: runs)")
    parser.add_argument("--images-to", type=Path, help="folder of the plots (default: that of --output)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
