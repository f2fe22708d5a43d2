# SPDX-License-Identifier: Apache-2.0
"""The images of a folder, and a word on every file that is none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bundle.data.set_files import has_image_suffix, walk
from bundle.dicom import PREAMBLE, other_object, starts_as_dicom
from bundle.failures import named
from bundle.files import CLIP_SUFFIXES, DICOM_SUFFIXES, IMAGE_SUFFIXES
from bundle.transforms.readers import quiet_reading

logger = logging.getLogger(__name__)

NAMED = 20
"""Files that are named in a line, at most; of more the number is given."""

STARTS = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"NRRD": "NRRD",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}  # fmt: skip
"""First bytes of pictures that may lie there under another suffix."""

OTHER_OBJECTS = "DICOM objects that are no images of ultrasound are passed over"
HIDDEN = "hidden images, with a dot before their name, are passed over"
UNNAMED = "files look like images but have no image's suffix and are left out; rename them to have them read"
LINKS = "links to folders that are read by another way are not followed"
OTHER_FILES = "files of no image format are passed over"
NO_CLIPS = "clips are left out by --frames 0"


def _why_not(path: str, clips: bool | None) -> tuple[str, str] | None:
    """Why a file is no image, as one of the texts above, and what it is; None for an image. ("", "") says nothing."""
    name = os.path.basename(path)
    if name.startswith("."):
        listed = has_image_suffix(name) and not name.startswith("._")  # those are what macOS leaves on other disks
        return (HIDDEN, "") if listed else ("", "")
    if clips is not None and name.lower().endswith(CLIP_SUFFIXES):
        return None if clips else (NO_CLIPS, "")
    suffixed = has_image_suffix(name)
    if suffixed and not name.lower().endswith(DICOM_SUFFIXES):
        return None
    try:
        if not os.path.isfile(path):
            raise OSError("no plain file, such as a pipe, which would be waited for")
        with open(path, "rb") as file:
            head = file.read(PREAMBLE)
            dicom = suffixed or starts_as_dicom(head)
            other = _other_object(path) if dicom else None
    except OSError:
        return None if suffixed else (OTHER_FILES, "cannot be opened")
    if dicom:
        return None if other is None else (OTHER_OBJECTS, other)
    kind = next((kind for start, kind in STARTS.items() if head.startswith(start)), None)
    return (OTHER_FILES, "") if kind is None else (UNNAMED, kind)


def _other_object(path: str) -> str | None:
    with quiet_reading(path):  # pydicom's warnings repeat entries
        return other_object(path)


def _sentences(passed: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, str]:
    """For each reason a line that counts and names the files."""
    lines = {}
    for reason, files in passed.items():
        names = [f"{name} ({kind})" if kind else name for name, kind in sorted(files)]
        lines[reason] = f"{len(files)} {reason}: {named(names, at_most=NAMED)}"
    return lines


def _sorted_out(top: Path, clips: bool | None) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """The images below a folder, and the other files by the reason for which they are passed over."""
    found: list[str] = []
    passed: dict[str, list[tuple[str, str]]] = {}
    files, links = walk(top)
    if links:
        passed[LINKS] = [(os.path.relpath(link, top), "") for link in links]
    for path in files:
        if (why := _why_not(path, clips)) is None:
            found.append(path)
        elif why[0]:
            passed.setdefault(why[0], []).append((os.path.relpath(path, top), why[1]))
    return found, passed


def _nothing(top: Path, lines: Mapping[str, str], clips: bool | None) -> FileNotFoundError:
    """The error of a folder without images, with what there is."""
    others = f"; {'; '.join(lines.values())}" if lines else ""
    what, suffixes = ("images or clips", IMAGE_SUFFIXES + CLIP_SUFFIXES) if clips else ("images", IMAGE_SUFFIXES)
    remedy = "Give --frames 1, or correct --dataset_dir." if NO_CLIPS in lines else "Correct --dataset_dir."
    return FileNotFoundError(
        f"dataset_dir {top}: expected {what} ({' '.join(suffixes)}, or DICOM without a suffix), got none{others}."
        f" {remedy}"
    )


def list_images(dataset_dir: str | Path, *, clips: bool | None = None) -> list[dict[str, str]]:
    """Every image below a folder, as ``[{"image": path}, ...]`` in sorted order; a single file is taken as it is.

    Images are files of a known suffix, and DICOM under any name. DICOM objects without an image, such as the DICOMDIR
    of a disk and its reports, are passed over, as are files of other formats, whatever begins with a dot, and links to
    folders that are read by another way; a line in the log counts and names them.

    Args:
        dataset_dir: folder, or a file.
        clips: whether video files are listed too; None where there is no choice, and they are no images.

    Raises:
        FileNotFoundError: when there is no such folder, or no image in it.
        ValueError: when a single file is a DICOM object without an image.
    """
    top = Path(dataset_dir)
    if top.is_file():
        if other := _other_object(str(top)):
            raise ValueError(
                f"dataset_dir {top}: expected an image or a folder, got a {other} object; give the folder of the images"
                f" instead, --dataset_dir {top.parent}."
            )
        return [{"image": str(top)}]
    if not str(dataset_dir) or not top.is_dir():
        raise FileNotFoundError(
            f"dataset_dir {dataset_dir or repr('')}: expected a folder with images, got no such folder; correct"
            " --dataset_dir."
        )
    found, passed = _sorted_out(top, clips)
    lines = _sentences(passed)
    if not found:
        raise _nothing(top, lines, clips)
    for reason, line in lines.items():
        log: Callable[[str], None] = logger.warning if reason == UNNAMED else logger.info
        log(f"{line}.")
    return [{"image": path} for path in sorted(found)]
