# SPDX-License-Identifier: Apache-2.0
"""Clips that end too early are named wherever they are read, and what a file's notes say is said of each frame."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from bundle.live import open_source
from bundle.live.cine import to_picture
from bundle.live.frames import FrameReader, list_frames
from bundle.live.sources import spread_frames
from bundle.transforms import LoadUltrasoundd
from bundle.transforms.readers import read_file
from tests.live.test_sources import write_dicom


def cut(path: Path, left: int) -> Path:
    path.write_bytes(path.read_bytes()[:left])
    return path


def cut_video(write_clip: Callable[..., Path]) -> Path:
    """An AVI of 100 frames of which a part can be read."""
    path = write_clip(frames=100)
    return cut(path, path.stat().st_size // 2)


def cut_cine(folder: Path) -> Path:
    """DICOM of 9 frames of 32 x 48, cut in the third."""
    path = write_dicom(folder / "m.dcm", np.full((9, 32, 48), 90, np.uint8))
    return cut(path, path.stat().st_size - 9 * 32 * 48 + 2 * 32 * 48 + 100)


def test_a_cut_video_is_named_and_its_frames_say_so(
    write_clip: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cut_video(write_clip)
    items, read = list_frames(tmp_path), FrameReader()
    note = f"file should hold 100 frames, {len(items)} could be read"
    assert 10 < len(items) < 90
    assert f"{path}: {note}; if it is cut, copy it again." in caplog.text
    assert LoadUltrasoundd()(read(items[0]))["image"].meta["notes"] == note


def test_a_whole_clip_has_no_such_note(
    write_clip: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_clip(frames=20)
    assert LoadUltrasoundd()(FrameReader()(list_frames(tmp_path)[0]))["image"].meta["notes"] == ""
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_cut_cine_says_that_it_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cut_cine(tmp_path)
    items, read = list_frames(tmp_path), FrameReader()
    assert len(items) == 9
    assert [read(item)["image"].shape for item in items[:2]] == [(3, 32, 48)] * 2
    for number in (2, 8):
        reason = "file should hold 9 frames, 2 could be read: it is cut; copy it again"
        with pytest.raises(ValueError, match=rf"m\.dcm: frame {number} cannot be read: {reason}"):
            read(items[number])
    assert "skipped" not in caplog.text
    source = open_source(str(path))
    assert [picture is None for picture in source.pictures()] == [False] * 2 + [True] * 7
    assert (source.lost, source.skipped) == ("file should hold 9 frames, 2 could be read: it is cut", 7)


@pytest.mark.parametrize("offsets", [True, False])
def test_a_cut_compressed_cine_says_that_it_is_cut(tmp_path: Path, offsets: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 200, (32, 48), np.uint8)).save(buffer, "JPEG")
    path = write_dicom(tmp_path / "m.dcm", np.zeros((9, 32, 48), np.uint8))
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([buffer.getvalue()] * 9, has_bot=offsets)
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    whole = path.stat().st_size
    assert all(picture is not None for picture in open_source(str(path)).pictures())
    source = open_source(str(cut(path, whole - 3 * len(buffer.getvalue()))))
    assert sum(picture is None for picture in source.pictures()) >= 3
    assert source.lost is not None
    assert source.lost.endswith("could be read: it is cut")


@pytest.mark.parametrize("kind", ["video", "cine"])
def test_frames_of_a_cut_clip_are_taken_with_a_warning(
    write_clip: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = cut_video(write_clip) if kind == "video" else cut_cine(tmp_path)
    with caplog.at_level(logging.WARNING):
        taken = list(spread_frames(str(path), 9))
    assert 0 < len(taken) < 9
    (line,) = caplog.messages
    assert line.startswith(f"{path}: file should hold {100 if kind == 'video' else 9} frames, ")
    assert line.endswith(f", of which {len(taken)} are taken; copy the file again, or cut it there.")


def region(kind: int, columns: tuple[int, int]) -> Dataset:
    """A region of a plane (1) or a spectrum (3), 0.02 cm a pixel."""
    ds = Dataset()
    ds.RegionDataType, ds.RegionSpatialFormat = kind, 1 if kind == 1 else 3
    ds.RegionLocationMinX0, ds.RegionLocationMaxX1 = columns
    ds.RegionLocationMinY0, ds.RegionLocationMaxY1 = 0, 31
    ds.PhysicalUnitsXDirection = ds.PhysicalUnitsYDirection = 3
    ds.PhysicalDeltaX = ds.PhysicalDeltaY = 0.02
    return ds


def test_a_frame_has_the_notes_of_its_file(tmp_path: Path) -> None:
    tags: dict[str, Any] = {
        "SequenceOfUltrasoundRegions": [region(1, (0, 39)), region(3, (40, 47))], "PixelSpacing": [0.5, 0.5],
        "PhotometricInterpretation": "MONOCHROME2",
    }  # fmt: skip
    (tmp_path / "multi").mkdir()
    single = write_dicom(tmp_path / "single.dcm", np.full((1, 32, 48), 90, np.uint8), **tags)
    multi = write_dicom(tmp_path / "multi/m.dcm", np.full((2, 32, 48), 90, np.uint8), **tags)
    for path in (single, multi):
        ds = pydicom.dcmread(path)
        del ds.SamplesPerPixel  # which the reader adds, with a note
        ds.save_as(path)
    expected = "; ".join(read_file(str(single)).notes)
    assert "SamplesPerPixel is missing" in expected
    assert "PixelSpacing says" in expected
    assert "left out: spectrum" in expected
    items, read = list_frames(tmp_path / "multi"), FrameReader()
    assert [LoadUltrasoundd()(read(item))["image"].meta["notes"] for item in items] == [expected] * 2
    shown = [picture.notes for picture in open_source(str(multi)).pictures() if picture is not None]
    assert shown == [to_picture(read_file(str(single))).notes] * 2
