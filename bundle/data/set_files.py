# SPDX-License-Identifier: Apache-2.0
"""The files below a folder, which of them are images, and their names without suffix."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from bundle.dicom import PREAMBLE, starts_as_dicom
from bundle.files import CLIP_SUFFIXES, DICOM_SUFFIXES, IMAGE_SUFFIXES

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


def walk(top: str | Path) -> tuple[list[str], list[str]]:
    """Paths of every file below a folder, hidden ones too, and of the links that were not followed.

    Folders that ``passed_over`` tells are not entered, all others are, whatever their name ends in. Each folder is
    entered once, links last: a link to one that is entered anyway is not followed. Where it leads round in a circle, to
    a folder that it lies in, it says nothing new and is not given.
    """
    files: list[str] = []
    again: list[str] = []
    entered: set[str] = set()
    starts = [str(top)]
    for start in starts:  # grows by the links
        if (target := os.path.realpath(start)) in entered:
            inside = Path(os.path.realpath(os.path.dirname(start))).is_relative_to(target)
            again += [] if inside else [start]
            continue
        for folder, folders, names in os.walk(start):
            if (real := os.path.realpath(folder)) in entered:
                folders.clear()
                continue
            entered.add(real)
            kept = sorted(name for name in folders if not passed_over(name))
            links = [name for name in kept if os.path.islink(os.path.join(folder, name))]
            starts += [os.path.join(folder, name) for name in links]
            folders[:] = [name for name in kept if name not in links]
            files += [os.path.join(folder, name) for name in names]
    return files, again


def sort_files(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Images below a folder; files that are neither images nor what goes with them, such as tables; links as ``walk``.

    All in sorted order.
    """
    paths, links = walk(folder)
    files = sorted(Path(file) for file in paths if not passed_over(os.path.basename(file)))
    images = [file for file in files if is_image(file)]
    headers = {file.with_suffix("") for file in images if file.suffix.lower() in _HEADERS}

    def goes_with_images(file: Path) -> bool:
        suffix, bare = file.suffix.lower(), file.with_suffix("")
        of_header = suffix in _PIXELS and not headers.isdisjoint({bare, bare.with_suffix("")})
        return suffix in _TABLES or file.name.lower().startswith(_DOCUMENTS) or of_header

    known = set(images)
    others = [file for file in files if file not in known and not goes_with_images(file)]
    return images, others, sorted(map(Path, links))


def images_in(folder: Path) -> list[Path]:
    """The images that lie in a folder itself, in sorted order."""
    files = [file for file in folder.iterdir() if file.is_file() and not passed_over(file.name)]
    return sorted(filter(is_image, files))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in sorted order."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not passed_over(f.name)) if folder.is_dir() else []


def counted(folders: Sequence[Path]) -> str:
    """Names of folders, each with the number of images below it, by their suffix."""
    numbers = {folder: sum(map(has_image_suffix, walk(folder)[0])) for folder in folders}
    return ", ".join(
        f"{folder.name} ({number} images)" if number else folder.name for folder, number in numbers.items()
    )


def has_image_suffix(name: str) -> bool:
    """Whether a name ends like an image that can be read."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_picture(path: Path) -> bool:
    """Whether a file's name ends like an image of one frame: any format but DICOM."""
    return has_image_suffix(path.name) and not path.name.lower().endswith(DICOM_SUFFIXES)


def is_clip(path: Path) -> bool:
    """Whether a file is a video by its suffix, or DICOM by its first bytes or suffix, which may hold many frames."""
    return path.name.lower().endswith((*CLIP_SUFFIXES, *DICOM_SUFFIXES)) or _begins_as_dicom(path)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix, or, where it has none, by beginning like DICOM."""
    if has_image_suffix(path.name):
        return True
    if path.suffix and not path.suffix[1:].isdecimal():  # a DICOM UID as a name ends in ".<digits>"
        return False
    return _begins_as_dicom(path)


def _begins_as_dicom(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            return starts_as_dicom(file.read(PREAMBLE))
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
