# SPDX-License-Identifier: Apache-2.0
"""Real clips through scripts/live.py: frames per second, latency at the clip's own pace, memory over many frames."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks.interleave import Options, Part

ROOT = Path(__file__).resolve().parents[2]
VIDEOS = (".mp4", ".mov", ".mpeg", ".avi")
CINE = "dicom/pydicom_examples_ybr_color.dcm"
LONG = 10_000  # frames
MODEL = ROOT / "exports" / "model_bfloat16.xml"

Summary = dict[str, Any]


def measure(options: Options) -> Part:
    """Each clip (``quick``: one) as fast as it goes and at its own pace; unless ``quick``, one over 10,000 frames."""
    folder = options.ultrasound or Path()
    clips = sorted(p for p in (folder / "cine").glob("*") if p.suffix.lower() in VIDEOS)
    clips += [p for p in [folder / CINE] if p.is_file()]
    if not clips:
        return Part("Clips", "No clips: name the folder of public images with --ultrasound.", [])
    model = ["--runtime", "openvino", "--model_path", str(MODEL)] if MODEL.is_file() else []
    rows, extra = [], {}
    if options.quick:
        clips = [min(clips, key=lambda path: path.stat().st_size)]
    for clip in clips:
        rows.append(_row(clip, live(clip, model), live(clip, [*model, "--realtime"])))
    if not options.quick:
        clip, frames = max(((c, r["frames"]) for c, r in zip(clips, rows, strict=True)), key=lambda pair: pair[1])
        extra = {"long": live(clip, [*model, "--loop", str(-(-LONG // frames))])}
    note = (
        f"scripts/live.py with {MODEL.name if model else 'PyTorch'}, overlay as MP4 and JSON lines written. "
        "Frames a second of the whole run as fast as it goes, start not included; latency from capture to result and "
        "dropped frames at the clip's own pace (--realtime)."
    )
    if extra:
        found = extra["long"]
        note += f" {found['frames']} frames of {clip.name}: memory {found['memory_mb']} MB."
    return Part("Clips", note, rows, extra)


def live(clip: Path, options: Sequence[str]) -> Summary:
    """The report of one run.

    Raises:
        RuntimeError: when it leaves none; its output is in the message. A clip that ends early has one.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "scripts" / "live.py"), str(clip), *options]
        outputs = {"--output": "out.mp4", "--jsonl": "out.jsonl", "--summary": "summary.json"}
        for option, name in outputs.items():
            command += [option, str(Path(folder, name))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        report = Path(folder, "summary.json")
        if not report.is_file():
            raise RuntimeError(f"{clip}: a report expected, got status {done.returncode}:\n{done.stderr[-2000:]}")
        summary: Summary = json.loads(report.read_text(encoding="utf-8"))
        return summary


def _row(clip: Path, fast: Summary, paced: Summary) -> dict[str, Any]:
    latency = paced["latency_ms"]
    return {
        "clip": clip.name,
        "frames": fast["frames"],
        "frames/s": fast["frames_per_second"],
        "work ms, median": fast["work_ms"]["p50"],
        "latency ms, median": latency["p50"],
        "95 %": latency["p95"],
        "99 %": latency["p99"],
        "dropped": paced["dropped"],
    }
