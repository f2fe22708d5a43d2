# SPDX-License-Identifier: Apache-2.0
"""What compressed frames may claim; tests/hostile runs inference over whole folders of such files."""

import contextlib
import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from bundle.dicom import identity, read_entries
from bundle.live.frames import FrameReader, list_frames
from bundle.transforms.readers import check_frame, read_file
from bundle.transforms.readers.dicom_bounds import check_jpeg
from tests.transforms.readers.made_dicom import jpeg, save

GREY = np.full((32, 48), 90, np.uint8)


def j2k() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()


def claimed(stream: bytes, height: int, width: int) -> bytes:
    place = stream.index(b"\xff\xc0") + 5
    return stream[:place] + struct.pack(">HH", height, width) + stream[place + 4 :]


def siz(place: int, *values: int) -> bytes:
    """A JPEG 2000 stream with 32-bit values of its SIZ segment changed."""
    stream, start = j2k(), 8 + place  # behind start, marker, length and capabilities
    packed = struct.pack(f">{len(values)}I", *values)
    return stream[:start] + packed + stream[start + len(packed) :]


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    assert read_file(str(save(tmp_path / "a.dcm", jpeg(GREY), shape=GREY.shape, syntax=JPEGBaseline8Bit))).pixels.max()
    read = read_file(str(save(tmp_path / "b.dcm", j2k(), shape=GREY.shape, syntax=JPEG2000Lossless)))
    assert (read.pixels == GREY).all()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (claimed(jpeg(GREY), 65500, 65500), "must have 1 to 89478485 pixels, got 65500x65500"),
        (claimed(jpeg(GREY), 0, 48000), "must have 1 to 89478485 pixels, got 65535x48000"),
        (claimed(jpeg(GREY), 65500, 65500).replace(b"\xff\xdb", b"\0\xff\xdb", 1), "got 65500x65500"),
    ],
)
def test_a_jpeg_stream_is_believed_before_the_header(tmp_path: Path, stream: bytes, message: str) -> None:
    """Decoders allocate what the stream claims: 6 GB here, for a header of 32 x 48, and pass bytes between segments."""
    path = save(tmp_path / "a.dcm", stream, shape=GREY.shape, syntax=JPEGBaseline8Bit)
    with pytest.raises(ValueError, match=rf"a\.dcm: image {message}|{message}"):
        read_file(str(path))


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (siz(0, 60000, 60000), "must have 1 to 89478485 pixels, got 60000x60000"),
        (siz(0, 60000, 60000, 59990, 59990, 1, 1), "must have at most 65535 tiles, got more"),
        (siz(16, 0, 0), "must have at most 65535 tiles, got more"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(5000) + siz(0, 60000, 60000), "got 60000x60000"),
    ],
)
def test_a_jpeg_2000_stream_is_believed_before_the_header(tmp_path: Path, stream: bytes, message: str) -> None:
    path = save(tmp_path / "a.dcm", stream, shape=GREY.shape, syntax=JPEG2000Lossless)
    with pytest.raises(ValueError, match=message):
        read_file(str(path))


def test_components_are_counted() -> None:
    stream = j2k()
    many = stream[:40] + struct.pack(">H", 16384) + stream[42:]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    check_frame(stream, ds)
    with pytest.raises(ValueError, match="must have at most 4 components, got 16384"):
        check_frame(many, ds)


def test_scans_without_number_are_refused() -> None:
    head = b"\xff\xd8\xff\xc2\x00\x0b" + struct.pack(">BHHB", 8, 4000, 4000, 1) + b"\1\x11\0"
    check_jpeg(head + b"\xff\xda\x00\x02x" * 100)
    with pytest.raises(ValueError, match="JPEG of 4000x4000 pixels must have few scans, got 200"):
        check_jpeg(head + b"\xff\xda\x00\x02x" * 200)


def test_rle_of_more_than_the_image_is_refused(tmp_path: Path) -> None:
    stream = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 5000
    path = save(tmp_path / "a.dcm", stream, shape=GREY.shape, syntax=RLELossless)
    with pytest.raises(ValueError, match=r"a\.dcm: RLE data of 1536 bytes must take 3072 at most, got 10064"):
        read_file(str(path))


def test_a_deflated_file_is_unpacked_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.4"}
    path = save(tmp_path / "a.dcm", GREY, syntax=DeflatedExplicitVRLittleEndian, **uids)
    assert (read_file(str(path)).pixels == GREY).all()
    assert identity(path) == ("1.2", "1.3", "1.4")
    monkeypatch.setattr("bundle.dicom.MOST_INFLATED", 1000)
    with pytest.raises(ValueError, match=r"a\.dcm: deflated DICOM must unpack to 0 MiB at most, got more"):
        read_file(str(path))
    for source in (path, io.BytesIO(path.read_bytes()), io.BytesIO(path.read_bytes()[132:])):  # also without DICM
        with pytest.raises(ValueError, match="deflated DICOM must unpack"):
            read_entries(source)


def test_fragments_that_make_no_frame_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", jpeg(GREY), shape=GREY.shape, syntax=JPEGBaseline8Bit)
    content = path.read_bytes()
    table = content.index(b"\xfe\xff\x00\xe0") + 4
    path.write_bytes(content[:table] + struct.pack("<I", 0xF0000000) + content[table + 4 :])
    with pytest.raises(ValueError, match=r"a\.dcm: DICOM file"):
        read_file(str(path))


@pytest.mark.parametrize("length", [0xF0000000, 0x7FFFFFFE])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_claim_of_gigabytes_allocates_nothing(tmp_path: Path, length: int, frames: int) -> None:
    path = save(tmp_path / "a.dcm", jpeg(GREY), shape=GREY.shape, syntax=JPEGBaseline8Bit, NumberOfFrames=frames)
    content = path.read_bytes()
    fragment = content.index(b"\xff\xd8\xff") - 4
    text = content.index(b"\x28\x00\x02\x00")  # in front of SamplesPerPixel
    for name, claimed_file in (
        ("fragment", content[:fragment] + struct.pack("<I", length) + content[fragment + 4 :]),
        ("text", content[:text] + b"\x08\x00\x15\x11UT\0\0" + struct.pack("<I", length) + content[text:]),
    ):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(claimed_file)
        tracemalloc.start()
        try:
            reader = FrameReader()
            for item in list_frames(path):
                with contextlib.suppress(ValueError):
                    read_file(str(path)) if "frame" not in item else reader(item)
            assert tracemalloc.get_traced_memory()[1] < 20e6
        finally:
            tracemalloc.stop()
