# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of images, by which near-duplicates, turned and mirrored copies included, are found.

An image's fingerprint is the perceptual hash of its eight orientations and a thumbnail.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bundle.data.neighbors import HASH_SIZE, THUMBNAIL, Search, orientations

_WORK_SIZE = HASH_SIZE * 4  # imagehash.phash takes the cosine transform at four times the hash's side


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image: ``hashes`` (8, 32) uint8, packed bits per orientation; ``thumbnail`` (32, 32) uint8."""

    hashes: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]


class Fingerprints:
    """The fingerprints of many images: hashes in memory, 256 bytes an image; thumbnails in a temporary file."""

    def __init__(self, marks: Iterable[Fingerprint] = ()) -> None:
        self._hashes, self._keys = bytearray(), bytearray()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        for mark in marks:
            self.append(mark)

    def __len__(self) -> int:
        return len(self._keys) // 8

    def append(self, mark: Fingerprint) -> None:
        """Add one image's."""
        hashes, thumbnail = mark.hashes.tobytes(), mark.thumbnail.tobytes()
        self._hashes += hashes
        self._file.write(thumbnail)
        constant = len(set(thumbnail)) < 2
        self._keys += bytes(8) if constant else hashlib.blake2b(hashes + thumbnail, digest_size=8).digest()

    def of(self, rows: Sequence[int]) -> Fingerprints:
        """Those of some of the images."""
        hashes, thumbnails = self.hashes(), self.thumbnails()
        return Fingerprints(Fingerprint(hashes[row], np.asarray(thumbnails[row])) for row in rows)

    def hashes(self) -> NDArray[np.uint64]:
        """Packed bits (N, 8, 4) of image and orientation."""
        return np.frombuffer(self._hashes, dtype=np.uint64).reshape(-1, 8, HASH_SIZE**2 // 64)

    def thumbnails(self) -> NDArray[np.uint8]:
        """Thumbnails (N, 32, 32), which are read from the file when they are looked at."""
        self._file.flush()
        return np.memmap(self._file, dtype=np.uint8, mode="r", shape=(len(self), THUMBNAIL, THUMBNAIL))

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of images that vary and equal none before; and (N,) the first equal to each, -1: constant."""
        keys = np.frombuffer(self._keys, dtype=np.uint64)
        _, places, inverse = np.unique(keys, return_index=True, return_inverse=True)
        first = np.where(keys == 0, -1, places[inverse.ravel()])
        return np.flatnonzero(first == np.arange(len(keys))), first


def fingerprint(path: str | Path) -> Fingerprint:
    """The fingerprint of an image file, which is decoded in full.

    Raises:
        OSError: when the file cannot be read or decoded.
    """
    with Image.open(path) as file:
        gray = _gray(file)
    small = np.asarray(gray.resize((_WORK_SIZE, _WORK_SIZE), Image.Resampling.LANCZOS))
    hashes = [imagehash.phash(Image.fromarray(o), hash_size=HASH_SIZE).hash.ravel() for o in orientations(small)]
    thumbnail = np.asarray(gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return Fingerprint(hashes=np.packbits(np.stack(hashes), axis=1), thumbnail=thumbnail)


def near_duplicates(fingerprints: Fingerprints, *, owners: Sequence[str] | None = None) -> list[tuple[int, int]]:
    """Sorted pairs ``(i, j)``, i < j, of images that are near-duplicates of each other.

    A constant image correlates with nothing and is in no pair. Of identical images the pairs with the first are listed,
    and of images with more than ``LISTED`` near-duplicates enough to join all that belong together.

    Args:
        fingerprints: of N images.
        owners: N names; images of one owner are not compared with each other. None: every image is its own.
    """
    if not len(fingerprints):
        return []
    owner = np.arange(len(fingerprints))
    if owners is not None:
        owner = np.unique(np.asarray(owners), return_inverse=True)[1].ravel()
    kept, first = fingerprints.distinct()
    same = np.flatnonzero((first >= 0) & (owner != owner[first]))
    pairs = list(zip(first[same].tolist(), same.tolist(), strict=True))
    if len(kept) > 1:
        search = Search(fingerprints.hashes(), fingerprints.thumbnails(), owners=owner)
        pairs += search.pairs_among(kept)
    return sorted(pairs)


def _gray(image: Image.Image) -> Image.Image:
    """8-bit gray; 16-bit and float images are scaled from their own range, which ``convert`` would clip."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        span = np.ptp(values)
        return Image.fromarray(((values - values.min()) * (255 / span if span > 0 else 0)).astype(np.uint8))
    return image.convert("RGB").convert("L")
