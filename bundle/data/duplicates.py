# SPDX-License-Identifier: Apache-2.0
"""Near-duplicate images, turned and mirrored copies included, found without comparing every pair.

An image's fingerprint is the perceptual hash of its eight orientations and a thumbnail. Candidates come from 64 hash
tables, each keyed by a few of the hash's low-frequency bits (locality-sensitive hashing; Indyk & Motwani 1998), so the
work grows nearly linearly with the number of images. A candidate is a near-duplicate when at most ``MAX_DISTANCE`` of
the 256 bits differ and the thumbnails correlate by ``MIN_CORRELATION`` or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

HASH_SIZE = 16
"""Side of the hash in bits: 256 bits, where the usual 64 take different ultrasound images for one."""

MAX_DISTANCE = 60
"""Bits that may differ. On BUSI, pairs up to 84 bits are one view of one patient to the eye, from 92 on they are not;
two lung videos of one scanner come as near as 62. Unrelated images differ by 128 bits."""

MIN_CORRELATION = 0.85
"""Least correlation of the thumbnails; the pairs of BUSI within ``MAX_DISTANCE`` have 0.89 to 1."""

THUMBNAIL = 32
"""Side of a thumbnail in pixels."""

_WORK_SIZE = HASH_SIZE * 4  # imagehash.phash takes the cosine transform at four times the hash's side
_TABLES = 64
_KEY_BITS = (14, 24)
_BUCKET = 200  # images of one key that are compared: blank images and the like share one key by the thousand
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image: ``hashes`` (8, 32) uint8, packed bits per orientation; ``thumbnail`` (32, 32) uint8."""

    hashes: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]


def fingerprint(path: str | Path) -> Fingerprint:
    """The fingerprint of an image file, which is decoded in full.

    Raises:
        OSError: when the file cannot be read or decoded.
    """
    with Image.open(path) as file:
        gray = _gray(file)
    small = np.asarray(gray.resize((_WORK_SIZE, _WORK_SIZE), Image.Resampling.LANCZOS))
    hashes = [imagehash.phash(Image.fromarray(o), hash_size=HASH_SIZE).hash.ravel() for o in _orientations(small)]
    thumbnail = np.asarray(gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return Fingerprint(hashes=np.packbits(np.stack(hashes), axis=1), thumbnail=thumbnail)


def near_duplicates(fingerprints: list[Fingerprint]) -> list[tuple[int, int]]:
    """Sorted pairs ``(i, j)``, i < j, of images that are near-duplicates of each other.

    A constant image correlates with nothing and is in no pair.
    """
    if len(fingerprints) < 2:
        return []
    hashes = np.stack([f.hashes for f in fingerprints])
    thumbnails = np.stack([f.thumbnail for f in fingerprints])
    low, high = _KEY_BITS
    key_bits = min(max(round(math.log2(8 * len(fingerprints))), low), high)
    frequency = np.add.outer(np.arange(HASH_SIZE), np.arange(HASH_SIZE)).ravel()
    stable = np.flatnonzero((frequency > 0) & (frequency < 10))  # the mean is always set; high frequencies are noise
    rng = np.random.default_rng(0)
    pairs: set[tuple[int, int]] = set()
    for _ in tqdm(range(_TABLES), desc="near-duplicates", unit="table", leave=False):
        bits = rng.choice(stable, key_bits, replace=False)
        for orientation in range(8):
            first, second = _same_key(_keys(hashes[:, orientation], bits), _keys(hashes[:, 0], bits))
            near = _distance(hashes[first, orientation], hashes[second, 0]) <= MAX_DISTANCE
            for i, j in zip(first[near].tolist(), second[near].tolist(), strict=True):
                pair = (min(i, j), max(i, j))
                if pair not in pairs and _correlation(thumbnails[i], thumbnails[j], orientation) >= MIN_CORRELATION:
                    pairs.add(pair)
    return sorted(pairs)


def _gray(image: Image.Image) -> Image.Image:
    """8-bit gray; 16-bit and float images are scaled from their own range, which ``convert`` would clip."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        span = np.ptp(values)
        return Image.fromarray(((values - values.min()) * (255 / span if span > 0 else 0)).astype(np.uint8))
    return image.convert("RGB").convert("L")


def _orientations(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The four quarter turns of an image (H, W) and of its mirror image; the first is the image itself."""
    return [np.ascontiguousarray(np.rot90(o, turns)) for o in (image, image[:, ::-1]) for turns in range(4)]


def _keys(hashes: NDArray[np.uint8], bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number per hash (N, 32), put together from the chosen bits."""
    keys = np.zeros(len(hashes), dtype=np.int64)
    for bit in bits:
        keys = (keys << 1) | ((hashes[:, bit >> 3] >> (7 - (bit & 7))) & 1)
    return keys


def _same_key(queries: NDArray[np.int64], keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of queries and of keys that are equal, an index with itself left out."""
    order = np.argsort(keys, kind="stable")
    start = np.searchsorted(keys[order], queries, side="left")
    stop = np.searchsorted(keys[order], queries, side="right")
    count = np.minimum(stop - start, _BUCKET)
    first = np.repeat(np.arange(len(queries)), count)
    within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    second = order[np.repeat(start, count) + within]
    other = first != second
    return first[other], second[other]


def _distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Number of bits that differ, per row."""
    return np.asarray(_ONES[a ^ b].sum(axis=1, dtype=np.int64))


def _correlation(a: NDArray[np.uint8], b: NDArray[np.uint8], orientation: int) -> float:
    """Pearson correlation of thumbnail ``a`` in the given orientation with ``b``; 0 when one is constant."""
    x = _orientations(a)[orientation].astype(np.float64)
    y = b.astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 0 else 0.0
