# SPDX-License-Identifier: Apache-2.0
"""Clips among the images of a folder: each frame is an item, read wherever it lies, and a clip has one result."""

import csv
import gc
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from bundle.live.frames import KEPT, FrameReader, list_frames
from bundle.transforms import LoadUltrasoundd
from tests.live.test_sources import write_dicom

ROOT = Path(__file__).resolve().parents[2]


def level(item: dict[str, Any]) -> int:
    """The grey that tells a frame's place: 20 + 10 * (index % 20)."""
    return round(float(item["image"][0, -1, -1]) * 255)


def test_every_frame_of_a_video_is_an_item(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    path = write_clip(frames=6)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "still.png")
    assert [item.get("frame") for item in list_frames(tmp_path)] == [0, 1, 2, 3, 4, 5, None]
    assert [item.get("frame") for item in list_frames(tmp_path, every=4)] == [0, 4, None]
    assert {item["image"] for item in list_frames(tmp_path, every=4)} == {str(path), str(tmp_path / "still.png")}


def test_without_frames_videos_are_passed_over(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    write_clip()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "still.png")
    assert [item["image"] for item in list_frames(tmp_path, every=0)] == [str(tmp_path / "still.png")]


def test_a_folder_of_clips_alone_says_what_leaves_them_out(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    write_clip()
    with pytest.raises(FileNotFoundError, match=r"got none; 1 clips are left out by --frames 0: clip\.avi\. Give") as e:
        list_frames(tmp_path, every=0)
    assert str(e.value).endswith("Give --frames 1, or correct --dataset_dir.")


def test_clips_are_among_the_formats_that_are_expected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"expected images or clips \(\.png .*\.ima \.mp4 .*, or DICOM"):
        list_frames(tmp_path)


@pytest.mark.parametrize("every", [-1, 1.5, True, "x"])
def test_every_must_be_a_whole_number(tmp_path: Path, every: Any) -> None:
    with pytest.raises(ValueError, match=r"frames must be a whole number, 0 or more, got .*; correct --frames"):
        list_frames(tmp_path, every=every)


def test_frames_are_read_in_any_order(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    write_clip(frames=KEPT + 30)
    items = list_frames(tmp_path)
    assert len(items) == KEPT + 30
    read = pickle.loads(pickle.dumps(FrameReader()))  # as loader processes get it
    for number in (3, 0, 19, 5, KEPT + 25, KEPT + 20, 1, 2):
        assert level(read(items[number])) == pytest.approx(20 + 10 * (number % 20), abs=3)


def test_frames_of_a_dicom_file_have_its_pixels_and_spacing(tmp_path: Path) -> None:
    pixels = np.stack([np.full((6, 9), 40 + i, np.uint8) for i in range(3)])
    write_dicom(tmp_path / "a.dcm", pixels)
    items = list_frames(tmp_path)
    assert [item["frame"] for item in items] == [0, 1, 2]
    item = FrameReader()(items[2])
    assert item["image"].shape == (3, 6, 9)
    assert torch.equal((item["image"] * 255).round(), torch.full((3, 6, 9), 42.0))
    assert item["spacing"] == pytest.approx([0.2, 0.1])
    assert item["image"].meta["spacing_source"] == "SequenceOfUltrasoundRegions"


def test_colors_are_red_green_blue(tmp_path: Path) -> None:
    pixels = np.zeros((2, 6, 9, 3), np.uint8)
    pixels[..., 0] = 200
    write_dicom(tmp_path / "a.dcm", pixels)
    item = FrameReader()(list_frames(tmp_path)[0])
    assert (item["image"][:, 0, 0] * 255).round().tolist() == [200, 0, 0]


def test_a_dicom_file_of_one_frame_is_an_image(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.full((1, 6, 9), 40, np.uint8))
    assert list_frames(tmp_path) == [{"image": str(tmp_path / "a.dcm")}]


@pytest.mark.parametrize("claimed", [10**9, 300_000])
def test_a_claim_of_countless_frames_makes_one_item(
    tmp_path: Path, claimed: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, np.full((2, 6, 9), 40, np.uint8))
    ds = pydicom.dcmread(path)
    ds.NumberOfFrames = claimed
    ds.save_as(path)
    (item,) = list_frames(tmp_path)
    assert item["frame"] == 0
    assert f"a.dcm: expected {min(100_000, path.stat().st_size // 8 + 1)} frames at most, header tells" in caplog.text


def test_a_film_that_is_too_long_is_named(
    write_clip: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(frames=6)
    monkeypatch.setattr("bundle.live.frames.MOST_FRAMES", 4)
    assert [item["frame"] for item in list_frames(tmp_path)] == [0, 1, 2, 3]
    assert "clip.avi: expected 4 frames at most, got more; the rest is left out" in caplog.text


def test_a_frame_that_is_not_there_is_named(write_clip: Callable[..., Path]) -> None:
    path = write_clip(frames=3)
    with pytest.raises(
        ValueError, match=r"clip\.avi: frame 7 cannot be read: the clip ends before it; convert the clip"
    ):
        FrameReader()({"image": str(path), "frame": 7})


def infer(options: dict[str, object]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_folder_gets_a_result_for_each_frame_and_each_clip(
    write_clip: Callable[..., Path], tmp_path: Path, weights: Path
) -> None:
    (tmp_path / "images").mkdir()
    write_clip("images/clip.avi", frames=5)
    (tmp_path / "images/cut.mp4").write_bytes(b"no video")
    Image.fromarray(np.full((40, 30), 90, np.uint8)).save(tmp_path / "images/still.png")
    options: dict[str, object] = {
        "dataset_dir": tmp_path / "images", "output_dir": tmp_path / "out", "ckpt_path": weights, "frames": 2,
        "encoder": "test_convnext", "decoder_channels": 16, "check_images": False, "spacing": 0.5, "position": "breast",
    }  # fmt: skip
    done = infer(options)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "4 of 5 images done" in said
    assert "cut.mp4: expected a video that OpenCV can open" in said
    images = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert [(one["file"], one["frame"], bool(one["error"])) for one in images] == [
        ("clip.avi", 0, False), ("clip.avi", 2, False), ("clip.avi", 4, False), ("cut.mp4", 0, True),
        ("still.png", None, False),
    ]  # fmt: skip
    for number in (0, 2, 4):
        with Image.open(tmp_path / f"out/clip_frame{number:05d}_mask.png") as mask:
            assert mask.size == (64, 48)
    with open(tmp_path / "out/clips.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["clip.avi", "cut.mp4"]
    assert (rows["clip.avi"]["frames"], rows["clip.avi"]["failed"]) == ("3", "0")
    assert (rows["cut.mp4"]["frames"], rows["cut.mp4"]["failed"], rows["cut.mp4"]["key_frame"]) == ("0", "1", "")
    areas = [one["areas"]["lesion"]["pixels"] for one in images[:3]]
    assert float(rows["clip.avi"]["areas.lesion.pixels"]) == pytest.approx(np.mean(areas), abs=1e-5)
    assert rows["clip.avi"]["key_frame"] == str(2 * int(np.argmax(areas)))
    found = [one["classes"]["breast"]["predicted"] for one in images[:3]]
    assert rows["clip.avi"]["classes.breast.predicted"] == max(found, key=found.count)
    assert rows["clip.avi"]["spacing_mm.source"] == "user"
    (tmp_path / "images/clip.avi").unlink()
    (tmp_path / "images/cut.mp4").unlink()
    assert infer(options).returncode == 0
    assert not (tmp_path / "out/clips.csv").exists()  # would be taken for this run's


def test_frames_in_memory_are_few_where_they_are_large(
    write_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(frames=10)
    monkeypatch.setattr("bundle.live.frames.KEPT_BYTES", 3 * 48 * 64 * 3)
    items, read = list_frames(tmp_path), FrameReader()
    assert [level(read(item)) for item in items] == pytest.approx([20 + 10 * n for n in range(10)], abs=3)
    (clip,) = read.clips.values()
    assert [place for place, _ in clip.kept] == [7, 8, 9]
    assert level(read(items[2])) == pytest.approx(40, abs=3)


def test_frames_are_few_where_they_are_large(
    write_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(frames=6)
    write_dicom(tmp_path / "a.dcm", np.full((6, 48, 64), 40, np.uint8))
    monkeypatch.setattr("bundle.live.frames.MOST_PIXELS", 3 * 48 * 64)
    assert [(Path(item["image"]).name, item["frame"]) for item in list_frames(tmp_path)] == [
        ("a.dcm", 0), ("clip.avi", 0), ("clip.avi", 1), ("clip.avi", 2),
    ]  # fmt: skip


def test_a_frame_that_unpacks_to_too_much_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 48), 90, np.uint8)).save(buffer, "JPEG")
    good = buffer.getvalue()
    place = good.index(b"\xff\xc0") + 5
    large = good[:place] + b"\xff\x00\xff\x00" + good[place + 4 :]
    path = tmp_path / "a.dcm"
    write_dicom(path, np.zeros((3, 32, 48), np.uint8))
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([good, large, good])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    items, read = list_frames(tmp_path), FrameReader()
    assert read(items[0])["image"].shape == read(items[2])["image"].shape == (3, 32, 48)
    with pytest.raises(ValueError, match=r"a\.dcm: frame 1 cannot be read: image must have 1 to .* got 65280x65280"):
        read(items[1])
    left = FrameReader()
    with pytest.raises(ValueError, match="frame 1 cannot be read"):
        left(items[1])
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    left.clips.clear()
    gc.collect()
    assert not unraisable  # pydicom's generator of frames seeks in the file when it ends


def test_pipes_are_named_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.png", "b.mp4", "c.dcm"):
        os.mkfifo(tmp_path / name)
    items, read, load = list_frames(tmp_path), FrameReader(), LoadUltrasoundd()
    assert [Path(item["image"]).name for item in items] == ["a.png", "b.mp4", "c.dcm"]
    for item in items:
        with pytest.raises(OSError, match=rf"{item['image']}: must be a plain file, got a pipe"):
            load(read(item))
