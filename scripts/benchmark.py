# SPDX-License-Identifier: Apache-2.0
"""Measures what the bundle costs, each way against the others in turns, and writes a table and a JSON."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle import __version__  # noqa: E402
from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from scripts.benchmarks.interleave import Options, Part  # noqa: E402

PARTS = {
    "data": "a training sample: cold, from the cache, as it was; the loader with workers",
    "training": "a training step: images per second and peak memory",
    "deployment": "latency of every runtime and precision, against the paper's network in eager float32",
    "live": "a frame of a stream, from pixels to mask and classes",
    "clips": "real clips through scripts/live.py: frames per second, latency, memory",
    "folder": "images per second from files to files",
    "dicom": "DICOM objects beside PNG files: milliseconds an image",
}


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on; no host name."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "torch_threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "bundle": __version__,
        "date": datetime.date.today().isoformat(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def as_markdown(part: Part) -> str:
    """The part's table."""
    columns = list(part.rows[0]) if part.rows else []
    lines = [f"## {part.title}", "", part.note, "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in columns) + " |" for row in part.rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = "\n".join(f"  {name:12}{text}" for name, text in PARTS.items())
    parser.epilog = f"parts:\n{parts}\n\nKeep the machine free of other work meanwhile; figures are ratios of one run."
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes: some five minutes in all")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument(
        "--datalist",
        type=Path,
        default=ROOT / "data" / "phantom" / "datalist.json",
        help="images to load (scripts/prepare_data.py); default: the built-in phantom, made when absent",
    )
    parser.add_argument(
        "--ultrasound",
        type=Path,
        default=Path(os.environ.get("ULTRASOUND_DATA", ROOT.parent / "shared" / "ultrasound")),
        help="folder of public images and DICOM, for the folder part; left out when absent",
    )
    parser.add_argument("--weights", type=Path, default=ROOT / "models" / "model.pt", help="the compact network's")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch; default: one per core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmark.json", help="JSON of all figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parse(arguments)
    try:
        _measure(args)
    except Exception as error:
        return failed(error)
    print(f"All figures: {args.output}")
    return 0


def _measure(args: argparse.Namespace) -> None:
    """Runs the parts one after the other; each one's table is printed, and kept in the JSON, as soon as it is there."""
    options = Options(
        quick=args.quick,
        datalist=args.datalist,
        ultrasound=args.ultrasound if args.ultrasound.is_dir() else None,
        weights=args.weights,
        seed=args.seed,
    )
    result: dict[str, Any] = {"machine": machine(args.threads), "quick": args.quick, "parts": {}}
    folder = OutputFolder(args.output.parent, option="--output")
    folder.check([args.output.name])
    for name in args.parts:
        torch.set_num_threads(args.threads)  # parts may change it
        start = time.monotonic()
        part: Part = importlib.import_module(f"scripts.benchmarks.{name}").measure(options)
        result["parts"][name] = {**part.as_dict(), "seconds": round(time.monotonic() - start, 1)}
        folder.write(args.output.name, (json.dumps(result, indent=1) + "\n").encode())
        print(as_markdown(part), flush=True)


if __name__ == "__main__":
    sys.exit(main())
