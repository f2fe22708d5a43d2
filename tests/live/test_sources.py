# SPDX-License-Identifier: Apache-2.0
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from bundle.live import Picture, open_source, play
from bundle.live.cine import to_picture
from bundle.live.sources import CaptureSource, natural
from bundle.transforms.readers import read_file
from bundle.transforms.readers.dicom_header import quiet_reading

CINE = np.random.default_rng(0).integers(0, 200, (4, 20, 30), np.uint8)


def write_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """A DICOM file of frames (N, H, W) grey or (N, H, W, 3), with a region of 0.02 x 0.01 cm per pixel."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PatientName, ds.PatientID = "Doe^Jane", "4711"
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.UltrasoundMultiFrameImageStorage, pydicom.uid.generate_uid()
    ds.Rows, ds.Columns = pixels.shape[1:3]
    ds.NumberOfFrames = len(pixels)
    ds.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.01, 0.02
    ds.SequenceOfUltrasoundRegions = [region]
    ds.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def level(given: Picture | None) -> int:
    assert given is not None
    return round((float(given.pixels[30, 40].mean()) - 20) / 10)


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_video_gives_all_frames_in_order(write_clip: Callable[..., Path], name: str) -> None:
    source = open_source(str(write_clip(name)))
    assert (source.kind, source.rate, source.length) == ("video", 20.0, 6)
    assert [level(p) for p in source.pictures()] == list(range(6))
    assert [level(p) for p in source.pictures()] == list(range(6))  # and once more
    assert source.lost is None


def test_a_camera_that_stops_is_lost(write_clip: Callable[..., Path]) -> None:
    source = CaptureSource(str(write_clip()), camera=True)
    frames = list(play(source, rate=20.0, realtime=True, loops=3))
    assert [frame.index for frame in frames] == list(range(6))  # a camera has no second pass
    assert source.lost == "camera stopped giving frames after 6"


def test_a_cut_video_says_so(write_clip: Callable[..., Path]) -> None:
    path = write_clip(frames=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(str(path))
    count = len(list(source.pictures()))
    assert 10 < count < 90
    assert source.lost == f"file should hold {source.length} frames, {count} could be read"


def test_times_pace_and_loops(write_clip: Callable[..., Path]) -> None:
    source = open_source(str(write_clip(rate=20.0)))
    start = time.perf_counter()
    frames = list(play(source, rate=20.0, realtime=True, loops=2))
    seconds = time.perf_counter() - start
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([n / 20 for n in range(12)])
    assert seconds >= 11 / 20 - 0.01  # of the first frame on: that one may come late


@pytest.mark.parametrize("colored", [False, True])
def test_cine_frames_are_what_single_images_would_be(tmp_path: Path, colored: bool) -> None:
    pixels = np.stack([CINE, CINE // 2, CINE // 3], -1) if colored else CINE
    source = open_source(str(write_dicom(tmp_path / "cine", pixels, FrameTime=40)))
    assert (source.kind, source.rate, source.length) == ("dicom", 25.0, 4)
    found = list(source.pictures())
    for number, given in enumerate(found):
        single = to_picture(read_file(str(write_dicom(tmp_path / "one.dcm", pixels[number : number + 1]))))
        assert isinstance(given, Picture)
        np.testing.assert_array_equal(given.pixels, single.pixels)
        assert given.spacing == single.spacing == pytest.approx((0.2, 0.1))
    if colored:
        assert (found[0].pixels[..., 2] == CINE[0]).all()  # red comes last


def jpeg_frames(colors: np.ndarray, mode: str) -> list[bytes]:
    """Frames (N, H, W, 3) as JPEG streams without a JFIF marker; ``mode`` YCbCr leaves the components as they are."""
    streams = []
    for frame in colors:
        buffer = io.BytesIO()
        Image.frombytes(mode, frame.shape[1::-1], frame.tobytes()).save(buffer, "JPEG", quality=95, subsampling=0)
        content = buffer.getvalue()
        streams.append(content[:2] + content[4 + int.from_bytes(content[4:6], "big") :])
    return streams


def with_ids(stream: bytes, ids: bytes) -> bytes:
    """The stream with other names of its components."""
    changed, frame, scan = bytearray(stream), stream.index(b"\xff\xc0") + 10, stream.index(b"\xff\xda") + 5
    for n, name in enumerate(ids):
        changed[frame + 3 * n] = changed[scan + 2 * n] = name
    return bytes(changed)


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("stored", ["YCbCr", "RGB"])
def test_the_stream_decides_on_the_colors_of_a_cine(tmp_path: Path, stored: str, label: str) -> None:
    colors = np.zeros((2, 16, 24, 3), np.uint8)
    colors[0], colors[1] = (200, 40, 30), (20, 60, 210)
    streams = jpeg_frames(colors, "RGB" if stored == "YCbCr" else "YCbCr")
    streams = streams if stored == "YCbCr" else [with_ids(stream, b"RGB") for stream in streams]
    path = write_dicom(tmp_path / "cine", colors, PhotometricInterpretation=label)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID, ds.PixelData = JPEGBaseline8Bit, encapsulate(streams)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(path)
    for expected, found in zip(colors, open_source(str(path)).pictures(), strict=True):
        assert isinstance(found, Picture)
        assert abs(found.pixels[8, 8, ::-1].astype(int) - expected[8, 8]).max() <= 6


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_cine_names_its_colors_in_small_letters(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "c.dcm", CINE, PhotometricInterpretation="monochrome2")
    assert all(isinstance(found, Picture) for found in open_source(str(path)).pictures())


def test_cine_window_and_twelve_bits(tmp_path: Path) -> None:
    stored = (CINE.astype(np.uint16) * 16)[:1]
    path = write_dicom(tmp_path / "c.dcm", stored, BitsStored=12, HighBit=11)
    assert (
        np.abs(next(open_source(str(path)).pictures()).pixels.astype(int) - CINE[0] * (16 / 4095 * 255)).max() <= 0.51
    )
    narrow = write_dicom(tmp_path / "w.dcm", CINE[:1], WindowCenter=100, WindowWidth=50)
    found = next(open_source(str(narrow)).pictures()).pixels
    assert (found[CINE[0] < 70] == 0).all()
    assert (found[CINE[0] > 130] == 255).all()


@pytest.mark.parametrize("stored", [CINE.astype(np.uint16) << 8, CINE.astype(np.uint16)])
def test_cine_values_below_a_high_bit(tmp_path: Path, stored: np.ndarray) -> None:
    """Editions before 2014 keep 8 bits in the upper half of 16; others set HighBit wrong."""
    found = list(open_source(str(write_dicom(tmp_path / "c.dcm", stored, BitsStored=8, HighBit=15))).pictures())
    for frame, expected in zip(found, CINE, strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize("wrong", [RLELossless, ImplicitVRLittleEndian, "1.2.3.4", None])
def test_cine_under_a_wrong_transfer_syntax(tmp_path: Path, wrong: str | None) -> None:
    path = write_dicom(tmp_path / "c.dcm", CINE)
    content = path.read_bytes()
    named = str(pydicom.dcmread(path).file_meta.TransferSyntaxUID).encode()
    named += b"\0" * (len(named) % 2)
    path.write_bytes(content.replace(named, str(wrong or "").encode().ljust(len(named), b"\0"), 1))
    for frame, expected in zip(open_source(str(path)).pictures(), CINE, strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize(
    ("tags", "rate"),
    [
        ({"FrameTime": 40}, 25.0),
        ({"FrameTimeVector": [0, 50, 50, 50]}, 20.0),
        ({"CineRate": 30}, 30.0),
        ({"FrameTime": 0, "RecommendedDisplayFrameRate": 15}, 15.0),
        ({}, None),
    ],
)
def test_cine_rate(tmp_path: Path, tags: dict[str, Any], rate: float | None) -> None:
    assert open_source(str(write_dicom(tmp_path / "c.dcm", CINE, **tags))).rate == rate


def test_cine_that_ends_early_skips_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_dicom(tmp_path / "c.dcm", CINE, PixelData=CINE[:2].tobytes())
    source = open_source(str(path))
    with caplog.at_level(logging.WARNING):
        found = list(source.pictures())
    assert source.skipped == sum(p is None for p in found) > 0
    assert source.lost == "file should hold 4 frames, 2 could be read: it is cut"
    assert caplog.text == ""
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]
    assert "Doe" not in caplog.text


def test_folder_in_natural_order_names_and_skips_bad_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (10, 9, 1):
        Image.fromarray(np.full((4, 6), number, np.uint8)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "frame2.png").write_bytes((tmp_path / "frame1.png").read_bytes()[:40])
    (tmp_path / "frame3.png").touch()
    source = open_source(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        frames = list(play(source, rate=10.0, realtime=False))
    assert [(f.index, int(f.picture.pixels[0, 0]), f.time) for f in frames] == [(0, 1, 0.0), (3, 9, 0.3), (4, 10, 0.4)]
    assert (source.kind, source.rate, source.length, source.skipped) == ("folder", None, 5, 2)
    assert "frame2.png: skipped: " in caplog.text
    assert "frame3.png: skipped: file must hold an image, got 0 bytes" in caplog.text


def test_natural_order_of_digits_that_are_no_numbers() -> None:
    """A superscript, a circled digit, Arabic-Indic three: the last alone is a decimal digit."""
    names = ["frame1\u00b23.png", "frame1\u2460.png", "frame\u0663.png", "frame2.png", "frame1.png"]
    assert sorted(names, key=natural)[:1] == ["frame1.png"]
    assert sorted(names, key=natural)[-2:] == ["frame2.png", "frame\u0663.png"]


def test_natural_order() -> None:
    assert sorted(["b1", "a10", "a9", "A1", "2", "10"], key=natural) == ["2", "10", "A1", "a9", "a10", "b1"]


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"no video" * 99)
    (tmp_path / "empty").mkdir()
    header = write_dicom(tmp_path / "report.dcm", CINE)
    ds = pydicom.dcmread(header)
    del ds.PixelData, ds.Rows
    ds.save_as(header)
    for name, kind, match in (
        ("gone.mp4", FileNotFoundError, "expected a video file, a DICOM file, a folder"),
        ("noise.mp4", OSError, "expected a video that OpenCV can open"),
        ("empty", FileNotFoundError, "expected images"),
        ("report.dcm", ValueError, "DICOM file must hold pixel data"),
    ):
        with pytest.raises(kind, match=match):
            open_source(str(tmp_path / name))
    with pytest.raises(OSError, match="77: expected a camera that OpenCV can open"):
        open_source("77")


def test_real_cine_is_read_frame_by_frame(real_data: Path) -> None:
    source = open_source(str(real_data / "dicom" / "pydicom_examples_ybr_color.dcm"))
    assert source.rate == pytest.approx(30, abs=0.01)
    shapes = [p.pixels.shape for p in source.pictures() if p]
    assert shapes == [(240, 320, 3)] * 30


def test_an_empty_name_is_no_source() -> None:
    """As of an unset variable of a shell: the current folder is not meant."""
    with pytest.raises(FileNotFoundError, match="'': expected a video file"):
        open_source("")


def test_frames_that_no_decoder_reads_leave_no_tracebacks_of_pydicom(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), quiet_reading("c.dcm"):
        logging.getLogger("pydicom.pixels.decoders.base").error("of a plug-in", exc_info=ValueError())
    assert not caplog.records
    logging.getLogger("pydicom.pixels.decoders.base").error("of another program")
    assert "of another program" in caplog.text
