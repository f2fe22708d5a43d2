# SPDX-License-Identifier: Apache-2.0
"""A folder of malformed DICOM and video files, and of good ones that name places elsewhere."""

import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from tests.hostile.dicom_files import UNDEFINED, after, bases, claims, dicom, put, streams, structure


def video(folder: Path, suffix: str, codec: str) -> bytes:
    path = folder / f"made{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 20, (64, 48))
    for level in range(0, 240, 30):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    content = path.read_bytes()
    path.unlink()
    return content


def directory(reference: list[str]) -> bytes:
    """A DICOMDIR that points elsewhere."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    ds.SOPInstanceUID, ds.FileSetID = "1.2.4", "../../out"
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", reference
    ds.DirectoryRecordSequence = [record]
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def videos(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Clips that are none, are cut, or lie about their size."""
    mp4, avi = video(folder, ".mp4", "mp4v"), video(folder, ".avi", "MJPG")
    for name, content in (("mp4", mp4), ("avi", avi)):
        for share in (0.02, 0.3, 0.6, 0.9):
            yield f"video_cut_{share}.{name}", content[: int(len(content) * share)]
    for size in (65535, 2**31 - 1, 2**32 - 1):
        yield (
            f"video_size_{size:x}.avi",
            after(put(avi, 64, struct.pack("<II", size, size)), b"strf", 8, struct.pack("<II", size, size)),
        )
        yield f"video_rate_{size:x}.avi", put(avi, 32, struct.pack("<I", 0) + avi[36:48] + struct.pack("<I", size))
    yield "video_size.mp4", after(mp4, b"mp4v", 28, struct.pack(">HH", 65535, 65535))
    for box in (b"moov", b"mdat", b"stsz", b"stco", b"stts", b"trak"):
        place = mp4.rindex(box)
        yield f"video_{box.decode()}_large.mp4", put(mp4, place - 4, struct.pack(">I", UNDEFINED))
        yield f"video_{box.decode()}_count.mp4", put(mp4, place + 8, struct.pack(">I", 0x7FFFFFFF))
    yield "video_playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "video_concat.avi", b"ffconcat version 1.0\nfile ../outside/secret.png\n"
    yield "video_empty.mov", b""
    yield "video_noise.mkv", np.random.default_rng(1).bytes(20_000)
    yield "video_zeros.webm", bytes(20_000)


def mutated(good: dict[str, bytes], count: int) -> Iterator[tuple[str, bytes]]:
    """Good files with a few bytes changed, the same in each run."""
    random = np.random.default_rng(17)
    names = sorted(good)
    for number in range(count):
        name = names[number % len(names)]
        content = bytearray(good[name])
        first = 132 if name.endswith(".dcm") else 0
        for _ in range(int(random.integers(1, 9))):
            content[int(random.integers(first, min(len(content), 8000)))] = int(random.integers(0, 256))
        yield f"mutated_{number:03d}_{name}", bytes(content)


def pictures() -> Iterator[tuple[str, bytes]]:
    """Compressed pictures: of the largest size that is read, of a larger one, and of countless scans."""
    for name, side in (("most", 9400), ("larger", 9600)):
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), (60, 60, 60)).save(buffer, "PNG")
        yield f"picture_{name}.png", buffer.getvalue()
    buffer = io.BytesIO()
    Image.new("L", (4000, 4000), 60).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    yield "picture_scans.jpg", content[:-2] + scan[:20] * 5000 + content[-2:]


WHOLE = {
    "claim_pixels_7ffffffe.dcm", "claim_pixels_f0000000.dcm", "claim_pixels_fffffffe.dcm",
    "frames_0_120.dcm", "frames_1_48.dcm", "nested_50_defined.dcm", "nested_10000_defined.dcm",
    "stream_j2k_small_tiles.dcm", "vr_pixels_554e.dcm", "picture_most.png",
}  # fmt: skip
"""Files that are wrong in what is not needed to show what they hold."""

NO_VIDEO = ("cut_0.02", "playlist", "concat", "empty", "noise", "zeros")
"""Clips of which nothing can be shown; how much of the others can be is up to FFmpeg."""


def make_hostile(folder: Path, *, total: int = 300, real: Sequence[Path] = ()) -> list[str]:
    """Writes so many malformed files; the names of those that are made by hand, the others being mutations.

    Args:
        folder: where.
        total: their number.
        real: files of scanners, of which mutations are made too.
    """
    good = bases()
    files = dict([*claims(good), *streams(), *structure(good), *videos(folder), *pictures()])
    made = sorted(files)
    sources = {f"{name}.dcm": content for name, content in good.items()}
    sources |= {"clip.mp4": video(folder, ".mp4", "mp4v"), "clip.avi": video(folder, ".avi", "MJPG")}
    sources |= {path.name: path.read_bytes() for path in real}
    files |= dict(mutated(sources, total - len(files)))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return made


def make_good(folder: Path, elsewhere: str) -> list[str]:
    """Writes files that hold whole images, some with names of places elsewhere in their entries; their names."""
    files = {f"good_{name}.dcm": content for name, content in bases().items()}
    for number, place in enumerate(("../../x", elsewhere, "C:/x", "$(touch x)", "x;touch x")):
        files[f"names_{number}.dcm"] = dicom(
            PatientName=place, PatientID=place, StudyDescription=place, SeriesDescription=place
        )
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return sorted(files)
