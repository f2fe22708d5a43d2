# SPDX-License-Identifier: Apache-2.0
"""Malformed DICOM files: what a damaged disk, a broken exporter or an attacker could leave in a folder."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

FRAME = np.random.default_rng(0).integers(40, 200, (32, 48), np.uint8)
UNDEFINED = 0xFFFFFFFF


def dicom(*, syntax: str = ExplicitVRLittleEndian, streams: list[bytes] | None = None, **tags: object) -> bytes:
    """A file of one grey frame, or of compressed streams."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundMultiFrameImageStorage, "1.2.3"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *FRAME.shape, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PatientName, ds.StudyDescription = "Doe^Jane", "liver"
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = FRAME.tobytes() if streams is None else encapsulate(streams)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = streams is not None
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def picture(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(FRAME).save(buffer, kind, **options)
    return buffer.getvalue()


def put(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def after(content: bytes, mark: bytes, skip: int, value: bytes) -> bytes:
    """The content with bytes set behind the last place of a mark."""
    return put(content, content.rindex(mark) + len(mark) + skip, value)


def element(group: int, number: int, vr: bytes, length: int, value: bytes = b"") -> bytes:
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    size = struct.pack("<HI", 0, length) if long else struct.pack("<H", length & 0xFFFF)
    return struct.pack("<HH", group, number) + vr + size + value


def before_pixels(content: bytes, inserted: bytes) -> bytes:
    """Elements in front of the pixel data, out of order or not."""
    place = content.rindex(b"\xe0\x7f\x10\x00")
    return content[:place] + inserted + content[place:]


def nested(depth: int, *, defined: bool) -> bytes:
    """A sequence in a sequence in a sequence."""
    if not defined:
        return (element(0x0018, 0x6011, b"SQ", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)) * depth
    value = b""
    for _ in range(depth):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
        value = element(0x0018, 0x6011, b"SQ", len(item), item)
    return value


def rle() -> bytes:
    ds = pydicom.dcmread(io.BytesIO(dicom()))
    ds.compress(RLELossless)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def deflated(zeros: int) -> bytes:
    """A file whose pixel data are so many zeros."""
    plain = dicom(syntax=ExplicitVRLittleEndian)
    head = dicom(syntax=DeflatedExplicitVRLittleEndian)
    start = 132 + 12 + struct.unpack_from("<I", head, 140)[0]
    place = plain.rindex(b"\xe0\x7f\x10\x00")
    first = 132 + 12 + struct.unpack_from("<I", plain, 140)[0]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(plain[first:place] + element(0x7FE0, 0x0010, b"OB", zeros))
    for _ in range(zeros >> 20):
        packed += packer.compress(bytes(1 << 20))
    return head[:start] + packed + packer.flush()


def bases() -> dict[str, bytes]:
    """Good files, one of each way to store pixels."""
    j2k = picture("JPEG2000", no_jp2=True)
    jpeg = picture("JPEG")
    return {
        "explicit": dicom(),
        "implicit": dicom(syntax=ImplicitVRLittleEndian),
        "deflated": dicom(syntax=DeflatedExplicitVRLittleEndian),
        "jpeg": dicom(syntax=JPEGBaseline8Bit, streams=[jpeg]),
        "cine": dicom(syntax=JPEGBaseline8Bit, streams=[jpeg] * 3, NumberOfFrames=3),
        "j2k": dicom(syntax=JPEG2000Lossless, streams=[j2k]),
        "rle": rle(),
    }


def claims(good: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Sizes that are not there."""
    plain, cine = good["explicit"], good["cine"]
    for name, rows, columns in (("rows", 65535, 48), ("both", 65535, 65535), ("most", 9000, 9900), ("zero", 0, 48)):
        yield f"claim_{name}.dcm", dicom(Rows=rows, Columns=columns)
        yield (
            f"claim_{name}_jpeg.dcm",
            dicom(syntax=JPEGBaseline8Bit, streams=[picture("JPEG")], Rows=rows, Columns=columns),
        )
    for count in (2147483647, 999999999999, 50000):
        yield f"claim_frames_{count}.dcm", dicom(NumberOfFrames=count)
        yield (
            f"claim_frames_{count}_jpeg.dcm",
            cine.replace(b"\x28\x00\x08\x00IS\x02\x003 ", element(0x28, 8, b"IS", 12, str(count).encode().ljust(12))),
        )
    for length in (0xFFFFFFFE, 0xF0000000, 0x7FFFFFFE, UNDEFINED):
        yield f"claim_pixels_{length:x}.dcm", after(plain, b"\xe0\x7f\x10\x00OB\0\0", 0, struct.pack("<I", length))
        yield f"claim_text_{length:x}.dcm", before_pixels(plain, element(0x0040, 0xA160, b"UT", length))
        if length != UNDEFINED:
            mark = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0"
            yield f"claim_table_{length:x}.dcm", after(cine, mark, 0, struct.pack("<I", length))
            yield (
                f"claim_fragment_{length:x}.dcm",
                put(cine, cine.index(b"\xff\xd8\xff") - 4, struct.pack("<I", length)),
            )
    yield "claim_samples.dcm", dicom(SamplesPerPixel=65535)
    yield "claim_bits.dcm", dicom(BitsAllocated=65535)
    yield "claim_no_bits.dcm", dicom(BitsAllocated=0)


def streams() -> Iterator[tuple[str, bytes]]:
    """Compressed streams that unpack to more than their file says."""
    jpeg, j2k = picture("JPEG"), picture("JPEG2000", no_jp2=True)
    large = put(jpeg, jpeg.index(b"\xff\xc0") + 5, struct.pack(">HH", 65500, 65500))
    for name, syntax, sof in (
        ("baseline", JPEGBaseline8Bit, 0xC0), ("lossless", JPEGLosslessSV1, 0xC3), ("ls", JPEGLSLossless, 0xF7),
    ):  # fmt: skip
        stream = put(large, large.index(b"\xff\xc0") + 1, bytes([sof]))
        yield f"stream_{name}.dcm", dicom(syntax=syntax, streams=[stream])
        yield f"stream_{name}_cine.dcm", dicom(syntax=syntax, streams=[jpeg, stream, jpeg], NumberOfFrames=3)
        yield f"stream_{name}_as_told.dcm", dicom(syntax=syntax, streams=[stream], Rows=65500, Columns=65500)
    size = j2k.index(b"\xff\x51") + 6  # behind the marker, its length and the capabilities
    sizes = {
        "size": put(j2k, size, struct.pack(">II", 2**31 - 1, 2**31 - 1)),
        "wide": put(j2k, size, struct.pack(">II", 60000, 60000)),
        "tiles": put(put(j2k, size, struct.pack(">II", 60000, 60000)), size + 16, struct.pack(">II", 1, 1)),
        "small_tiles": put(j2k, size + 16, struct.pack(">II", 1, 1)),
        "components": put(j2k, size + 32, struct.pack(">H", 16384)),
        "offset": put(j2k, size + 8, struct.pack(">II", 2**31, 2**31)),
    }
    for name, stream in sizes.items():
        yield f"stream_j2k_{name}.dcm", dicom(syntax=JPEG2000Lossless, streams=[stream])
    yield "stream_j2k_cine.dcm", dicom(syntax=JPEG2000Lossless, streams=[j2k, sizes["wide"]], NumberOfFrames=2)
    for name, head in (("segments", [2**32 - 1, *[64] * 15]), ("offsets", [1, 2**32 - 1, *[0] * 14])):
        yield (
            f"stream_rle_{name}.dcm",
            dicom(syntax=RLELossless, streams=[struct.pack("<16I", *head) + b"\x81\0" * 500]),
        )
    packed = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 100_000
    yield "stream_rle_bomb.dcm", dicom(syntax=RLELossless, streams=[packed])
    yield "deflated_bomb.dcm", deflated(600 << 20)
    yield "deflated_cut.dcm", deflated(1 << 20)[:-200]


def structure(good: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Sequences without end or ground, wrong kinds of value, frames that are no number."""
    plain = good["explicit"]
    for depth in (50, 10_000):
        for defined in (True, False):
            name = "defined" if defined else "endless"
            yield f"nested_{depth}_{name}.dcm", before_pixels(plain, nested(depth, defined=defined))
    for name, end in (("sequence", b""), ("item", struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED))):
        yield f"endless_{name}.dcm", before_pixels(plain, element(0x18, 0x6011, b"SQ", UNDEFINED) + end)
    yield "endless_value.dcm", before_pixels(plain, element(0x40, 0xA160, b"UN", UNDEFINED))
    for count in ("0", "-3", "abc", "1e9", "", "3\\4"):
        value = count.encode().ljust(len(count) + len(count) % 2)
        yield (
            f"frames_{len(count)}_{ord((count or 'x')[0])}.dcm",
            before_pixels(plain, element(0x28, 8, b"IS", len(value), value)),
        )
    for vr in (b"ZZ", b"SQ", b"DS", b"\0\0", b"PN", b"UN"):
        yield f"vr_rows_{vr.hex()}.dcm", plain.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0" + vr)
        yield f"vr_pixels_{vr.hex()}.dcm", plain.replace(b"\xe0\x7f\x10\0OB", b"\xe0\x7f\x10\0" + vr)
    for number, one in enumerate(pydicom.dcmread(io.BytesIO(plain))):
        place = int(one.file_tell)
        yield f"cut_{number:02d}.dcm", plain[: place if number % 2 else place - 3]
    yield "empty.dcm", b""
    yield "preamble.dcm", bytes(128) + b"DICM"
    yield "zeros.dcm", bytes(5000)
