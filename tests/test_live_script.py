# SPDX-License-Identifier: Apache-2.0
"""scripts/live.py as users call it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest

from bundle.files import LEDGER, OutputFolder
from scripts.live import main

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts/live.py"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "Doe_Jane.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (96, 72))
    for level in range(4):
        speckle = np.random.default_rng(level).integers(60, 180, (36, 48, 1), np.uint8)
        picture = np.repeat(speckle, 3, axis=2).repeat(2, axis=0).repeat(2, axis=1)
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
    assert (
        "8 frames of a video, 0 dropped to keep up, 0 unreadable, 0 not ultrasound; ended: end of the source"
        in done.stdout
    )
    assert "8/8" in done.stderr  # the progress bar
    summary = json.loads((out / "report.json").read_text())
    assert summary["frames"] == 8
    assert summary["settings"]["prompts"]["position"] == "breast"
    assert summary["settings"]["window"] == 3
    assert len((out / "o.jsonl").read_text().splitlines()) == 8
    assert cv2.VideoCapture(str(out / "o.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 8
    again = run(clip, "--window", 1, *files)  # over its own results
    assert again.returncode == 0, again.stderr
    assert len((out / "o.jsonl").read_text().splitlines()) == 4
    assert sorted(path.name for path in out.iterdir()) == [LEDGER, "o.jsonl", "o.mp4", "report.json"]
    assert all("Doe" not in path.read_text() for path in (out / "o.jsonl", out / "report.json"))


@pytest.mark.parametrize("option", ["--output", "--jsonl", "--summary"])
@pytest.mark.parametrize("kind", ["same", "other path", "symlink", "hard link"])
def test_the_source_is_kept_to_the_byte(clip: Path, tmp_path: Path, option: str, kind: str) -> None:
    before = clip.read_bytes()
    target = {"same": clip, "other path": tmp_path / "x/.." / clip.name}.get(kind, tmp_path / "link.mp4")
    if kind == "other path":
        (tmp_path / "x").mkdir()
    if kind == "symlink":
        target.symlink_to(clip)
    if kind == "hard link":
        os.link(clip, target)
    arguments = [clip, option, target, *([] if option == "--jsonl" else ["--jsonl", tmp_path / "new/lines.jsonl"])]
    assert main([str(word) for word in arguments]) == 1
    assert clip.read_bytes() == before
    assert not (tmp_path / "new").exists()  # refused before anything is opened


def test_what_cannot_be_ultrasound_is_said_in_lines_and_report(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    speckle = np.random.default_rng(0).integers(60, 180, (72, 96), np.uint8)
    for number, picture in enumerate((speckle, np.full((72, 96), 250, np.uint8), speckle)):
        cv2.imwrite(str(tmp_path / f"frames/{number}.png"), picture)
    files = ["--jsonl", str(tmp_path / "o.jsonl"), "--output", str(tmp_path / "o.mp4")]
    done = run(tmp_path / "frames", "--position", "breast", *files)
    assert done.returncode == 0, done.stderr
    assert "3 frames of a folder, 0 dropped to keep up, 0 unreadable, 1 not ultrasound; ended" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    note = "does not look like ultrasound (one value throughout); nothing is reported"
    assert [note in line["notes"] for line in lines] == [False, True, False]
    assert [list(line["classes"]) for line in lines] == [["breast"], [], ["breast"]]
    assert lines[1]["areas"]["lesion"] == {"pixels": None, "mm2": None}


def test_the_message_names_the_option(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.json").write_text("mine")
    assert main([str(clip), "--summary", str(tmp_path / "mine.json")]) == 1
    assert "mine.json: expected a free name or an unchanged file of an earlier run" in capsys.readouterr().err
    assert main([str(clip), "--output", str(clip)]) == 1
    assert "got a file that this run reads; nothing is replaced. Move it, or choose another --output." in (
        capsys.readouterr().err
    )
    for second in ("a.mp4", "../" + tmp_path.name + "/a.mp4"):
        assert main([str(clip), "--output", str(tmp_path / "a.mp4"), "--jsonl", str(tmp_path / second)]) == 1
        assert "--output and --jsonl must be two files" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [clip.name, "mine.json"]


def test_an_organ_of_which_nothing_is_reported_ends_the_run_at_its_start(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(clip), "--position", "cardiac", "--jsonl", str(tmp_path / "a.jsonl")]) == 1
    assert "position: ['cardiac'] have neither structures nor classes" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()


def test_lines_of_a_killed_run_are_replaced_until_a_user_changes_them(clip: Path, tmp_path: Path) -> None:
    lines = tmp_path / "g.jsonl"
    words = [sys.executable, str(SCRIPT), str(clip), "--loop", "100000", "--jsonl", str(lines)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        while not (lines.exists() and lines.stat().st_size) and killed.poll() is None:
            time.sleep(0.02)
        killed.kill()
    held = lines.read_bytes()
    lines.write_bytes(held + b"mine")  # in place
    assert main([str(clip), "--jsonl", str(lines)]) == 1
    assert lines.read_bytes() == held + b"mine"
    lines.write_bytes(held)
    assert main([str(clip), "--jsonl", str(lines)]) == 0
    assert len(lines.read_text().splitlines()) == 4


def test_weights_are_not_replaced(clip: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes((ROOT / "models/model.pt").read_bytes())
    OutputFolder(tmp_path).adopt("w.pt")  # as if an earlier run had written them
    assert main([str(clip), "--ckpt_path", str(weights), "--jsonl", str(weights)]) == 1
    assert weights.read_bytes() == (ROOT / "models/model.pt").read_bytes()


def test_a_folder_that_cannot_be_written_to_is_named(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for option in ("--output", "--jsonl", "--summary"):
        assert main([str(clip), option, str(tmp_path / "file/out.mp4")]) == 1
        assert "file" in (told := capsys.readouterr().err)
        assert told.rstrip().endswith(f"another {option}.")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    words = [sys.executable, str(ROOT / "scripts/live.py"), str(clip), "--jsonl", str(locked / "a.jsonl")]
    if os.access(locked, os.W_OK):  # as root, who needs no permission unless it is taken away
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"error: {locked} must be a writable folder, got: ")
    assert last.endswith("choose others with --jsonl.")


def test_lines_go_into_a_pipe(clip: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done: list[int] = []
    thread = Thread(target=lambda: done.append(main([str(clip), "--jsonl", str(tmp_path / "pipe")])))
    thread.start()
    with (tmp_path / "pipe").open() as pipe:
        assert len(pipe.readlines()) == 4
    thread.join()
    assert done == [0]


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "gone.mp4")
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "expected a video file, a DICOM file, a folder of images or the index of a camera" in done.stderr
    assert "Traceback" not in done.stderr
