# SPDX-License-Identifier: Apache-2.0
"""Segments and classifies a stream: a video file, a DICOM cine, a folder of frames, or a camera.

At the end (also after Ctrl-C) it reports frames per second, latency, dropped frames and memory. The exit status is 1
when the source cannot be opened, ends before its end, or had frames that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.engines.runtimes import RUNTIMES
from bundle.failures import failed
from bundle.files import OutputFolder
from bundle.live import RunOptions, as_text, build_segmenter, check_outputs, open_source, run_live
from bundle.transforms.seeing.view import VIEW_OPTIONS
from bundle.vocabulary import REQUESTED_PROMPTS

ROOT = Path(__file__).resolve().parents[1]

EPILOG = """\
examples:
  python scripts/live.py clip.mp4 --output overlay.mp4 --jsonl frames.jsonl
  python scripts/live.py cine.dcm --position breast --runtime openvino --summary report.json
  python scripts/live.py 0 --show --window 9
"""


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    if not 0 < (rate := float(text)) <= 1000:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1000 frames per second, got {text!r}")
    return rate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", help="video file, DICOM file, folder of images, DICOMweb address, or index of a camera, such as 0"
    )
    for name, values in (
        ("position", "organ"),
        ("nature", "tumor or organ"),
        ("task", "segmentation or classification"),
    ):
        parser.add_argument(f"--{name}", help=f"what the stream shows: {values} (default: the config's)")
    parser.add_argument(
        "--window", type=_positive, default=5, help="frames of the vote; 1: none (default: %(default)s)"
    )
    parser.add_argument("--realtime", action="store_true", help="keep a file's own pace; drop frames when behind")
    parser.add_argument("--rate", type=_rate, help="frames per second (default: the source's own, or 25)")
    parser.add_argument("--loop", type=_positive, default=1, help="play the source so often (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="MP4 file of the overlay")
    parser.add_argument("--jsonl", type=Path, help="JSON lines, one per frame")
    parser.add_argument("--summary", type=Path, help="JSON file of the report")
    parser.add_argument("--show", action="store_true", help="show the overlay in a window; q or Escape ends")
    parser.add_argument("--runtime", choices=RUNTIMES, default="torch", help="default: %(default)s")
    parser.add_argument("--model_path", type=Path, help="exported model (default: the float32 one in exports)")
    parser.add_argument("--threads", type=_positive, help="of the network (default: the runtime's choice)")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="mm of a pixel, or of rows and columns, of pictures that do not say",
    )
    parser.add_argument("--ckpt_path", type=Path, help="weights (default: models/model.pt)")
    for name, what in VIEW_OPTIONS.items():
        parser.add_argument(f"--{name}", action="store_const", const=True, help=f"{what} (default: the config's)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        source = open_source(options.source)
        weights = (options.ckpt_path or ROOT / "models" / "model.pt", *filter(None, [options.model_path]))
        files = {f"--{name}": getattr(options, name) for name in ("output", "jsonl", "summary")}
        check_outputs(files, sources=[*source.files, *weights])
        segment = build_segmenter(
            ROOT,
            prompts={name: getattr(options, name) for name in REQUESTED_PROMPTS},
            window=options.window,
            runtime=options.runtime,
            model_path=options.model_path and str(options.model_path),
            runtime_threads=options.threads,
            spacing=options.spacing,
            ckpt_path=options.ckpt_path and str(options.ckpt_path),
            **{name: getattr(options, name) for name in VIEW_OPTIONS},
        )
        chosen = {name: getattr(options, name) for name in ("realtime", "rate", "output", "jsonl", "show")}
        run = RunOptions(loops=options.loop, **chosen)
        summary = run_live(source, segment, tasks=segment.records.tasks, options=run)
        summary["settings"] |= {"runtime": options.runtime, "window": options.window, "prompts": segment.prompts}
        if options.summary:
            folder = OutputFolder(options.summary.parent, option="--summary", sources=source.files)
            folder.write(options.summary.name, json.dumps(summary, indent=1).encode())
    except Exception as error:
        return failed(error)
    print(as_text(summary))
    return int(source.lost is not None or source.skipped > 0 or not summary["frames"])


if __name__ == "__main__":
    sys.exit(main())
