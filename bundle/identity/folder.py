# SPDX-License-Identifier: Apache-2.0
"""All images of a folder, de-identified, under names that tell nothing."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage, generate_uid
from tqdm import tqdm

from bundle.data.listing import list_images
from bundle.failures import reason
from bundle.files import OutputFolder, sha256
from bundle.identity.header import Removed, deidentify_header, identifying_words, new_uid
from bundle.identity.pixels import Finder, blank, held_in_stream, looked_at, text_of
from bundle.live.cine import cine_pictures, is_dicom, to_picture
from bundle.live.pictures import Picture
from bundle.sinks.png import encode_png
from bundle.tables import csv_table
from bundle.transforms.readers import quiet_reading, read_file

logger = logging.getLogger(__name__)

REPORT = "deidentified.csv"


@dataclass
class Outcome:
    """What became of the images.

    Attributes:
        written: source -> name of the new file.
        failed: source -> reason.
        rows: of the report.
    """

    written: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    rows: list[dict[str, str | int]] = field(default_factory=list)

    @property
    def actions(self) -> Counter[str]:
        """How often each thing was done."""
        return Counter(str(row["action"]) for row in self.rows)


def deidentify_folder(source: str | Path, output_dir: str | Path, *, finder: Finder | None, salt: bytes) -> Outcome:
    """Writes each image anew, as ``00001.dcm`` or ``.png`` in the order of the sources, and a report of what went.

    DICOM objects that are no images are passed over. The report, ``deidentified.csv``, has the new file, the element
    and what was done to it, and how many pixels of text became black; no value, and no name of a source.

    Args:
        source: folder in any depth, or a file.
        output_dir: folder of the new files.
        finder: of text in the pixels; None leaves them as they are.
        salt: of the new UIDs: with the same one, images of a study stay in one study over several runs.

    Raises:
        FileExistsError: when a file that no earlier run wrote would be replaced.
        FileNotFoundError, ValueError: when there is no image, see ``list_images``.
        ImportError: when a package is missing.
    """
    paths = [Path(item["image"]) for item in list_images(source)]
    folder, outcome = OutputFolder(output_dir, sources=paths), Outcome()
    names = [f"{number:05d}{'.dcm' if is_dicom(path) else '.png'}" for number, path in enumerate(paths, start=1)]
    folder.check([REPORT, *names])
    for path, name in zip(tqdm(paths, unit="file"), names, strict=True):
        try:
            content, removed, pixels = (_dicom if name.endswith(".dcm") else _picture)(path, finder, salt)
        except ImportError:
            raise
        except Exception as error:
            outcome.failed[path] = reason(error).removeprefix(f"{path}: ")
            continue
        folder.write(name, content)
        outcome.written[path] = name
        outcome.rows += [{"file": name, "element": one.element, "action": one.action} for one in removed]
        if pixels:
            outcome.rows.append({"file": name, "element": "PixelData", "action": "text made black", "pixels": pixels})
    folder.write(REPORT, csv_table(outcome.rows, ["file", "element", "action", "pixels"]))
    _remove_earlier(folder, outcome.written.values())
    return outcome


def _dicom(path: Path, finder: Finder | None, salt: bytes) -> tuple[bytes, list[Removed], int]:
    with quiet_reading(str(path)):
        ds = pydicom.dcmread(path, force=True)
        if "PixelData" not in ds:
            raise ValueError("an image with pixel data expected, got none; leave it out.")
        _complete(ds, path)
    text = None if finder is None else text_of(_shown(path, int(ds.get("NumberOfFrames") or 1)), finder)
    with quiet_reading(str(path)):
        big = not ds.file_meta.TransferSyntaxUID.is_little_endian
        if (text is not None and text.any()) or big or held_in_stream(ds, identifying_words(ds)):
            blank(ds, text)
        removed = deidentify_header(ds, uid=new_uid(salt), pixels_cleaned=finder is not None)
        file = io.BytesIO()
        syntax = ds.file_meta.TransferSyntaxUID
        options = {"implicit_vr": syntax.is_implicit_VR, "little_endian": True} if big else {}
        pydicom.dcmwrite(file, ds, enforce_file_format=True, **options)
    return file.getvalue(), removed, 0 if text is None else int(text.sum())


def _complete(ds: pydicom.Dataset, path: Path) -> None:
    """Class and instance that a file must have; of one without an instance, it comes from what the file holds."""
    several = int(ds.get("NumberOfFrames") or 1) > 1
    given = {
        "SOPClassUID": ds.file_meta.get("MediaStorageSOPClassUID")
        or (UltrasoundMultiFrameImageStorage if several else UltrasoundImageStorage),
        "SOPInstanceUID": ds.file_meta.get("MediaStorageSOPInstanceUID") or generate_uid(entropy_srcs=[sha256(path)]),
    }
    for name, value in given.items():
        if not ds.get(name):
            setattr(ds, name, value)


def _shown(path: Path, count: int) -> list[np.ndarray]:
    """The frames in which text is looked for, as they are displayed.

    Raises:
        ValueError: when one cannot be decoded: its text would stay.
    """
    wanted, found = looked_at(count), []
    for number, picture in enumerate(cine_pictures(path, count)):
        if number in wanted:
            if not isinstance(picture, Picture):
                raise ValueError(f"frame {number}: {picture}")
            found.append(picture.pixels)
    return found


def _picture(path: Path, finder: Finder | None, salt: bytes) -> tuple[bytes, list[Removed], int]:
    """A PNG of the pixels alone, read as for inference, with 8 bits: what else the file held is gone.

    Raises:
        OSError, ValueError: as ``bundle.transforms.readers.read_file``; of several pages too, whose text would stay.
    """
    del salt
    pixels = to_picture(read_file(str(path))).pixels
    pixels = np.array(pixels if pixels.ndim == 2 else pixels[..., ::-1])
    text = None if finder is None else text_of([pixels], finder)
    if text is not None:
        pixels[text] = 0
    return encode_png(pixels), [], 0 if text is None else int(text.sum())


def _remove_earlier(folder: OutputFolder, written: Collection[str]) -> None:
    """Takes away what an earlier run wrote and this one did not: it would be taken for this one's."""
    for path in sorted(folder.folder.iterdir()):
        if re.fullmatch(r"\d{5,}\.(dcm|png)", path.name) and path.name not in written and folder.wrote(path.name):
            folder.remove(path.name)
            logger.info(f"{path.name} of an earlier run is removed.")


def mapping(outcome: Outcome) -> bytes:
    """A table of sources and new files: it names patients if their files do."""
    return csv_table([{"source": str(source), "file": name} for source, name in outcome.written.items()])
