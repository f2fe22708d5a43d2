# SPDX-License-Identifier: Apache-2.0
"""One image or mask file of any format, by its first bytes where they tell, else by its suffix."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from bundle.dicom import PREAMBLE, BoundedFile, starts_as_dicom
from bundle.failures import clause
from bundle.files import DICOM_SUFFIXES, IMAGE_SUFFIXES, METAIMAGE_SUFFIXES, NIFTI_SUFFIXES, sha256
from bundle.transforms.readers.dicom import read_dicom
from bundle.transforms.readers.metaimage import is_metaimage, metaimage_values, read_metaimage
from bundle.transforms.readers.nrrd_files import nrrd_values, read_nrrd
from bundle.transforms.readers.pictures import read_picture
from bundle.transforms.readers.raw import MAX_PIXELS, Raw
from bundle.transforms.readers.volumes import read_nifti

Reader = Callable[[IO[bytes], str, bool], Raw]

PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP  ")


def _pick_reader(file: IO[bytes], path: str) -> Reader:
    head = file.read(PREAMBLE)
    file.seek(0)
    if not head:
        raise ValueError("file must hold an image, got 0 bytes; copy it again or remove it.")
    name = path.lower()
    if starts_as_dicom(head):
        return read_dicom
    if head.startswith(PICTURE_STARTS):
        return read_picture
    if head.startswith(b"NRRD"):
        return read_nrrd
    suffixes: dict[tuple[str, ...], Reader] = {
        DICOM_SUFFIXES: read_dicom,
        NIFTI_SUFFIXES: read_nifti,
        METAIMAGE_SUFFIXES: read_metaimage,
    }
    named = next((reader for endings, reader in suffixes.items() if name.endswith(endings)), read_picture)
    return read_metaimage if is_metaimage(head) else named


def image_files(path: str | Path) -> list[Path]:
    """An image or mask file, and the file beside it that its header (``.mhd``, ``.nhdr``) names for its values.

    The latter is left out where ``read_file`` would refuse it, or the header.

    Raises:
        OSError: when the file cannot be opened.
    """
    values: dict[Reader, Callable[[IO[bytes], str], Path | None]] = {
        read_metaimage: metaimage_values,
        read_nrrd: nrrd_values,
    }
    with open(path, "rb") as file:
        try:
            find = values.get(_pick_reader(file, str(path)))
            beside = find(file, str(path)) if find else None
        except (OSError, ValueError):
            beside = None
    return [Path(path), beside] if beside else [Path(path)]


def image_digest(path: str | Path) -> str:
    """SHA-256 of what an image or mask file shows: of the file, together with that of its values if they lie beside it.

    Raises:
        OSError: when one cannot be read.
    """
    digests = [sha256(file) for file in image_files(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read(path: str, as_mask: bool) -> Raw:
    """Reads a file; errors name it."""
    try:
        with BoundedFile(path) as file:
            return _pick_reader(file, path)(file, path, as_mask)
    except UnidentifiedImageError as e:
        raise OSError(
            f"{path}: must be a readable image of type {' '.join(IMAGE_SUFFIXES)}, got an unknown or damaged format;"
            " convert it to PNG or copy it again."
        ) from e
    except Image.DecompressionBombError as e:
        raise ValueError(f"{path}: image must have at most {MAX_PIXELS} pixels, got more; crop or downscale it.") from e
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    except Exception as e:  # what damaged files make the libraries raise
        reason = clause(str(e).replace(path, "the file")) or type(e).__name__
        if reason.startswith("decoder error"):  # of libtiff, which says more on stderr, without a name
            reason = f"its compressed pixels are damaged or cut ({reason})"
        raise OSError(f"{path}: cannot be decoded: {reason}; copy it again or remove it from the data set.") from e


def check_plain(path: str) -> None:
    """Refuses what is no plain file: a pipe would be waited for.

    Raises:
        FileNotFoundError, IsADirectoryError, OSError: with what it is.
    """
    if os.path.islink(path) and not os.path.exists(path):
        raise FileNotFoundError(
            f"{path}: must be an image file, got a broken link to {os.readlink(path)}; mend the link or remove it."
        )
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: file must exist, found none; correct the path.")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: must be an image file, got a folder; name the file in it.")
    if not os.path.isfile(path):
        raise OSError(f"{path}: must be a plain file, got a pipe, a socket or a device; remove it.")


def read_file(path: str, *, as_mask: bool = False) -> Raw:
    """Reads one image or mask file.

    Args:
        path: PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000, NIfTI, NRRD (with pynrrd) or MetaImage of one plane, or
            single-frame DICOM.
        as_mask: keep palette indices and stored values instead of colors and windowed values.

    Raises:
        FileNotFoundError: when there is no such file.
        IsADirectoryError: when it is a folder.
        OSError: when the file is damaged, in no known format, or no plain file.
        ValueError: when it is empty, a volume, multi-frame, or too large. All name the file.
    """
    check_plain(path)
    raw = _read(path, as_mask)
    if raw.pixels.dtype.kind == "f" and not np.isfinite(raw.pixels).all():
        raise ValueError(f"{path}: pixels must be finite, got NaN or infinite values; repair or remove the file.")
    return raw
