# SPDX-License-Identifier: Apache-2.0
"""The files below a folder, which of them are images, and their names without suffix."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from bundle.files import IMAGE_SUFFIXES

SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
IMAGE_FOLDERS = ("imgs", "images", "image", "img")
MASK_FOLDERS = ("masks", "mask", "gt", "groundtruth", "ground_truth", "labels", "label", "segmentations", "annotations")

_TABLES = (".txt", ".csv", ".yaml", ".yml")
_DOCUMENTS = ("readme", "license", "licence", "datalist.json")
_HEADERS = (".mhd", ".nhdr")
_PIXELS = (".raw", ".zraw", ".gz")  # of a header of the same name
_SYSTEM = ("thumbs.db", "desktop.ini", "__macosx")  # written by operating systems, beside what begins with a dot


def passed_over(name: str) -> bool:
    """Whether a file or folder is hidden or the operating system's own."""
    return name.startswith(".") or name.lower() in _SYSTEM


def files_below(top: Path) -> Iterator[Path]:
    """Every file below a folder; what ``passed_over`` tells is not looked at.

    Links to folders that were walked already are not followed again. A folder with an image's name counts as a file, so
    that it is reported as unreadable later on.
    """
    walked = {os.path.realpath(top)}

    def is_new(folder: str) -> bool:
        real = os.path.realpath(folder)
        new = real not in walked or not os.path.islink(folder)
        walked.add(real)
        return new

    for folder, folders, files in os.walk(top, followlinks=True):
        kept = sorted(f for f in folders if not passed_over(f) and is_new(os.path.join(folder, f)))
        yield from (Path(folder, f) for f in kept if has_image_suffix(f))
        folders[:] = [f for f in kept if not has_image_suffix(f)]
        yield from (Path(folder, f) for f in sorted(files) if not passed_over(f))


def sort_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images below a folder, and files that are neither images nor what goes with them, such as tables."""
    files = sorted(files_below(folder))
    images = [file for file in files if is_image(file)]
    headers = {file.with_suffix("") for file in images if file.suffix.lower() in _HEADERS}

    def goes_with_images(file: Path) -> bool:
        suffix, bare = file.suffix.lower(), file.with_suffix("")
        of_header = suffix in _PIXELS and not headers.isdisjoint({bare, bare.with_suffix("")})
        return suffix in _TABLES or file.name.lower().startswith(_DOCUMENTS) or of_header

    known = set(images)
    return images, [file for file in files if file not in known and not goes_with_images(file)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in sorted order."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not passed_over(f.name)) if folder.is_dir() else []


def has_image_suffix(name: str) -> bool:
    """Whether a name ends like an image that can be read."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix, or, where it has none, by beginning like DICOM."""
    if has_image_suffix(path.name):
        return True
    if path.suffix and not path.suffix[1:].isdecimal():  # a DICOM UID as a name ends in ".<digits>"
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def stem_of(name: str) -> str:
    """A file's name without its image suffix, in composed Unicode form (macOS decomposes it)."""
    suffix = max((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), key=len, default="")
    return unicodedata.normalize("NFC", name[: len(name) - len(suffix)])


def place_of(file: Path, root: Path) -> str:
    """The path of an image or mask within ``root`` without folders such as ``imgs`` and ``masks``: ``site2/s0.png``."""
    parts = unicodedata.normalize("NFC", file.relative_to(root).as_posix()).split("/")
    return "/".join([p for p in parts[:-1] if p.lower() not in IMAGE_FOLDERS + MASK_FOLDERS] + parts[-1:])


def below_masks(file: Path, root: Path) -> bool:
    """Whether a file lies in a folder of masks within ``root``."""
    return any(part.lower() in MASK_FOLDERS for part in file.relative_to(root).parts[:-1])
