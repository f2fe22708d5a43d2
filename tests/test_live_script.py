# SPDX-License-Identifier: Apache-2.0
"""scripts/live.py as users call it."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts/live.py"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "Doe_Jane.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (96, 72))
    for level in range(4):
        picture = np.full((72, 96, 3), 100 + level, np.uint8)
        cv2.circle(picture, (48, 36), 15, (10, 10, 10), -1)
        writer.write(picture)
    writer.release()
    return path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


def test_help_names_the_options() -> None:
    text = run("--help").stdout
    for option in ("--window", "--realtime", "--loop", "--output", "--jsonl", "--summary", "--show", "--runtime"):
        assert option in text


def test_a_clip_to_overlay_lines_and_report(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = ("--output", out / "o.mp4", "--jsonl", out / "o.jsonl", "--summary", out / "report.json")
    done = run(clip, "--position", "breast", "--window", 3, "--loop", 2, *files)
    assert done.returncode == 0, done.stderr
    assert "8 frames of a video, 0 dropped to keep up, 0 unreadable; ended: end of the source" in done.stdout
    assert "8/8" in done.stderr  # the progress bar
    summary = json.loads((out / "report.json").read_text())
    assert summary["frames"] == 8
    assert summary["settings"]["prompts"]["position"] == "breast"
    assert summary["settings"]["window"] == 3
    assert len((out / "o.jsonl").read_text().splitlines()) == 8
    assert cv2.VideoCapture(str(out / "o.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert all("Doe" not in path.read_text() for path in (out / "o.jsonl", out / "report.json"))


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "gone.mp4")
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "expected a video file, a DICOM file, a folder of images or the index of a camera" in done.stderr
    assert "Traceback" not in done.stderr
