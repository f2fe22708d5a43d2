# SPDX-License-Identifier: Apache-2.0
"""One's own images and clips of other organs become a data set of no organ."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bundle.data.other_organs import DATASET, other_organs
from bundle.live.sources import spread_frames


def clip(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for n in range(count):
        writer.write(np.full((48, 64, 3), (n * 4, 0, 255 - n * 4), np.uint8))
    writer.release()
    return path


def test_pictures_stay_and_clips_become_frames(tmp_path: Path) -> None:
    (tmp_path / "own/deep").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "own/eye.png")
    clip(tmp_path / "own/deep/heart.avi", 40)
    found = other_organs([str(tmp_path / "own")], tmp_path / "out", frames=spread_frames)
    assert found.datasets[DATASET]["organ"] == "none"
    assert found.datasets[DATASET]["position"] == "unknown"
    assert [Path(item["image"]).name for item in found.items if item["patient"] == f"{DATASET}/eye"] == ["eye.png"]
    frames = [item["image"] for item in found.items if item["patient"] == f"{DATASET}/heart"]
    assert len(frames) == 12
    reds = [int(np.asarray(Image.open(file))[20, 20, 0]) for file in frames]
    assert reds == sorted(reds, reverse=True)  # RGB, in order
    assert reds[0] > 245
    assert reds[-1] < 110  # from the first frame to the last


def test_frames_of_a_short_clip_are_all_there(tmp_path: Path) -> None:
    assert len(list(spread_frames(str(clip(tmp_path / "a.avi", 3)), 12))) == 3


def test_what_cannot_be_read_is_named_and_costs_nothing_else(tmp_path: Path) -> None:
    clip(tmp_path / "a.avi", 2)
    (tmp_path / "b.avi").write_text("no clip")
    found = other_organs([str(tmp_path / "a.avi"), str(tmp_path / "b.avi")], tmp_path / "out", frames=spread_frames)
    assert len(found.items) == 2
    [left] = found.left_out
    assert "b.avi: expected a video that OpenCV can open" in left.reason


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    def none(path: str, most: int) -> Iterator[np.ndarray]:
        raise ValueError(f"{path}: no")

    with pytest.raises(FileNotFoundError, match=r"missing: expected a file or folder"):
        other_organs([str(tmp_path / "missing")], tmp_path / "out", frames=none)
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(ValueError, match=r"--other-organs: expected images or clips .* got none that can be read"):
        other_organs([str(tmp_path / "a.txt")], tmp_path / "out", frames=none)


def test_files_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        clip(tmp_path / folder / "clip.avi", 2)
    found = other_organs([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out", frames=spread_frames)
    assert len({item["image"] for item in found.items}) == 4
    assert len({item["patient"] for item in found.items}) == 2


def test_other_clips_replace_no_frame_of_an_earlier_manifest(tmp_path: Path) -> None:
    first = other_organs([str(clip(tmp_path / "a.avi", 40))], tmp_path / "out", frames=spread_frames).items
    held = {item["image"]: Path(item["image"]).read_bytes() for item in first}
    other_organs([str(clip(tmp_path / "a.avi", 20))], tmp_path / "out", frames=spread_frames)
    assert {path: Path(path).read_bytes() for path in held} == held


def test_masks_tables_and_earlier_frames_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "own/masks").mkdir(parents=True)
    for name in ("a.png", "a_mask.png", "a_lesion.png", "masks/b.png"):
        Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "own" / name)
    for name in ("notes.txt", "table.csv", ".hidden.png"):
        (tmp_path / "own" / name).write_text("no image")
    clip(tmp_path / "own/c.avi", 3)
    out = tmp_path / "own/other_organs"
    for _ in range(2):
        found = other_organs([str(tmp_path / "own")], out, frames=spread_frames)
        assert sorted({item["patient"] for item in found.items}) == [f"{DATASET}/a", f"{DATASET}/c"]
        assert found.left_out == []
    assert [notice.split(":")[1].strip() for notice in found.notices] == [
        "3 files are masks",
        "3 files are frames of an earlier run",
        "2 files are neither images nor clips",  # hidden ones are not told
    ]
