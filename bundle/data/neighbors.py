# SPDX-License-Identifier: Apache-2.0
"""Search for near-duplicates among fingerprints: all pairs of up to ``EXACT`` images, of more those that share a key.

Two images are near-duplicates when at most ``MAX_DISTANCE`` of the 256 bits differ, in any orientation of one of them,
and the thumbnails correlate by ``MIN_CORRELATION`` or more. Up to ``EXACT`` images every pair is compared; the time
grows with the square of the images. Of more images, only those are compared that share a key. Keys are taken from the
54 low-frequency bits in nine blocks, of which any three are a key, so that a pair that differs in at most six of the 54
always shares one (Manku, Jain & Das Sarma 2007). Pairs that differ more may be missed: of the 324 pairs of 2,514 real
images the keys find 302, of the 158 of different patients 156. From 100,000 to a million random hashes the work grew
some 20 times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
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

LISTED = 50
"""Pairs of one image that are listed for certain; of larger clusters there are enough pairs to join them."""

EXACT = 50_000
"""Images of which all pairs are compared: 20 billion distances, which take one core some 100 seconds."""

_LOW_FREQUENCY = 10  # sum of the two indices; the mean is always set, higher frequencies are noise
_BLOCKS, _BLOCKS_PER_KEY, _BLOCK_BITS = 9, 3, 6
_ROWS, _COLUMNS = 32, 4096  # images of which all pairs are compared at once; narrower arrays take longer
_LOOKS = 256  # thumbnails that are correlated at once
_CHUNK = 1 << 18  # candidates that are compared at once
_LARGE = 2048  # images of one key from which on they are compared one after the other

Integers = NDArray[np.int64]


def orientations(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The four quarter turns of images (..., H, W) and of their mirror images; the first is the image itself."""
    return [_oriented(images, turn) for turn in range(8)]


def _oriented(images: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(images if turn < 4 else images[..., ::-1], turn % 4, (-2, -1)))


def _low_bits() -> NDArray[np.int64]:
    """Places of the 54 low-frequency bits in a hash, lowest frequency first."""
    frequency = np.add.outer(np.arange(HASH_SIZE), np.arange(HASH_SIZE)).ravel()
    order = np.argsort(frequency, kind="stable")
    return order[(frequency[order] > 0) & (frequency[order] < _LOW_FREQUENCY)]


def _low_words(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The low-frequency bits (N, 8) of hashes (N, 8, 4), the first in the lowest place."""
    octets = hashes.view(np.uint8)
    low = np.zeros(octets.shape[:2], dtype=np.int64)
    for place, bit in enumerate(_low_bits()):
        low |= ((octets[..., bit >> 3] >> (7 - (bit & 7))) & 1).astype(np.int64) << place
    return low


def _tables() -> Iterator[list[tuple[int, int]]]:
    """The keys: of each, the (place, number) of the low-frequency bits that it is made of."""
    places = range(0, _BLOCKS * _BLOCK_BITS, _BLOCK_BITS)
    yield from ([(p, _BLOCK_BITS) for p in chosen] for chosen in combinations(places, _BLOCKS_PER_KEY))


def _keys(low: Integers, bits: Sequence[tuple[int, int]]) -> Integers:
    keys = np.zeros(len(low), dtype=np.int64)
    for place, width in bits:
        keys = (keys << width) | ((low >> place) & ((1 << width) - 1))
    return keys


def _order(keys: Integers) -> Integers:
    """What ``argsort`` gives when it is stable; sorting numbers of 64 bits is faster by far."""
    return np.sort((keys << 32) | np.arange(len(keys))) & 0xFFFFFFFF


class _Table(NamedTuple):
    """Images in the order of their keys, with their hashes (4, N); per key its number, first place, owners' range."""

    images: Integers
    hashes: NDArray[np.uint64]
    counts: Integers
    starts: Integers
    lowest: Integers
    highest: Integers


class Search:
    """Looks up candidates, compares them and joins what is near.

    Args:
        hashes: (N, 8, 4) uint64, packed bits per image and orientation.
        thumbnails: (N, 32, 32) uint8.
        owners: (N,) numbers from 0; images of one owner are not compared.
    """

    def __init__(self, hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8], *, owners: Integers) -> None:
        self.hashes, self.thumbnails, self.owners = hashes, thumbnails, owners
        self.cluster = np.arange(int(owners.max()) + 1)  # of an owner
        self.members: dict[int, list[int]] = {}
        self.listed = np.zeros(len(hashes), dtype=np.int64)
        self.pairs: set[tuple[int, int]] = set()
        self.checked = np.zeros(0, dtype=np.int64)

    def pairs_among(self, images: Integers) -> set[tuple[int, int]]:
        """Pairs ``(i, j)``, i < j, of near-duplicates out of these images."""
        if len(self.hashes) <= EXACT:
            self._compare_all(images)
            return self.pairs
        low = _low_words(self.hashes)[images]
        for bits in tqdm(list(_tables()), desc="near-duplicates", unit="table", leave=False):
            self._look_up(images, [_keys(own, bits) for own in low.T], size=1 << sum(width for _, width in bits))
        return self.pairs

    def _compare_all(self, images: Integers) -> None:
        """Compare every orientation of each image with every image."""
        targets = np.ascontiguousarray(self.hashes[images, 0].T)  # (4, N)
        with tqdm(total=len(images), desc="near-duplicates", unit="image", leave=False) as bar:
            for begin in range(0, len(images), _ROWS):
                rows = images[begin : begin + _ROWS]
                for start in range(0, len(images), _COLUMNS):
                    columns = images[start : start + _COLUMNS]
                    if not self._settled(rows, columns):
                        self._compare(rows, columns, targets[:, start : start + _COLUMNS])
                bar.update(len(rows))

    def _settled(self, rows: Integers, columns: Integers) -> bool:
        """Whether all are in one cluster and enough pairs of the rows are listed."""
        clusters = self.cluster[self.owners[columns]]
        same = (clusters == clusters[0]).all() and (self.cluster[self.owners[rows]] == clusters[0]).all()
        return bool(same and (self.listed[rows] >= LISTED).all())

    def _compare(self, rows: Integers, columns: Integers, targets: NDArray[np.uint64]) -> None:
        """List the near-duplicates of ``rows`` among ``columns``, whose hashes are ``targets`` (4, columns)."""
        for turn in range(8):
            distance = np.zeros((len(rows), len(columns)), dtype=np.int16)
            for mine, theirs in zip(self.hashes[rows, turn].T, targets, strict=True):
                distance += _ones(mine[:, None] ^ theirs)
            row, column = np.nonzero(distance <= MAX_DISTANCE)
            self._list(rows[row], columns[column], turn=turn)

    def _look_up(self, images: Integers, keys: Sequence[Integers], *, size: int) -> None:
        """Compare images of equal keys below ``size``: ``keys[o]`` of the first with ``keys[0]`` of the second."""
        table = self._table(images, keys[0], size=size)
        owners = self.owners[images]
        for turn, own in enumerate(keys):
            alone = (table.lowest[own] == owners) & (table.highest[own] == owners)
            chosen = np.flatnonzero((table.counts[own] > 0) & ~alone)
            chosen = chosen[_order(own[chosen])]
            self._scan(images[chosen], own[chosen], table=table, turn=turn)

    def _table(self, images: Integers, keys: Integers, *, size: int) -> _Table:
        ordered = images[_order(keys)]
        counts = np.bincount(keys, minlength=size)
        starts = np.cumsum(counts) - counts
        used = np.flatnonzero(counts)
        lowest, highest = np.full(size, -1), np.full(size, -1)
        lowest[used] = np.minimum.reduceat(self.owners[ordered], starts[used])
        highest[used] = np.maximum.reduceat(self.owners[ordered], starts[used])
        return _Table(ordered, np.ascontiguousarray(self.hashes[ordered, 0].T), counts, starts, lowest, highest)

    def _scan(self, first: Integers, keys: Integers, *, table: _Table, turn: int) -> None:
        """Compare images ``first``, sorted by their ``keys``, with the table's images of these keys, in chunks."""
        ends = np.cumsum(table.counts[keys])
        found: list[tuple[Integers, Integers]] = []
        begin = 0
        while begin < len(first):
            if large := bool(table.counts[keys[begin]] > _LARGE):
                after = self._next_of_other_cluster(first, keys, table=table, begin=begin)
                if after > begin:
                    begin = after
                    continue
            done = int(ends[begin - 1]) if begin else 0
            end = begin + 1 if large else max(begin + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
            found.append(self._near(first[begin:end], keys[begin:end], table=table, turn=turn))
            if large or sum(len(a) for a, _ in found) > _CHUNK // 8:
                self._accept(found, turn=turn)
                found = []
            begin = end
        self._accept(found, turn=turn)

    def _next_of_other_cluster(self, first: Integers, keys: Integers, *, table: _Table, begin: int) -> int:
        """The next image to compare: those that are in one cluster with all of their key are passed over."""
        start = table.starts[keys[begin]]
        clusters = self.cluster[self.owners[table.images[start : start + table.counts[keys[begin]]]]]
        if (clusters != clusters[0]).any():
            return begin
        stop = int(np.searchsorted(keys, keys[begin], side="right"))
        others = np.flatnonzero(self.cluster[self.owners[first[begin:stop]]] != clusters[0])
        return begin + int(others[0]) if len(others) else stop

    def _near(self, first: Integers, keys: Integers, *, table: _Table, turn: int) -> tuple[Integers, Integers]:
        """Images and those of their key that differ from them in at most ``MAX_DISTANCE`` bits."""
        counts = table.counts[keys]
        own = np.repeat(np.arange(len(first)), counts)
        place = np.arange(len(own)) + np.repeat(table.starts[keys] - (np.cumsum(counts) - counts), counts)
        hashes = self.hashes[first, turn].T
        distance = np.zeros(len(own), dtype=np.int16)
        for mine, targets in zip(hashes, table.hashes, strict=True):
            distance += _ones(mine[own] ^ targets[place])
        near = np.flatnonzero(distance <= MAX_DISTANCE)
        own, second = first[own[near]], table.images[place[near]]
        worth = self._worth(own, second)
        return own[worth], second[worth]

    def _worth(self, first: Integers, second: Integers) -> Integers:
        """Which of the near are worth a look: of two owners, and not joined already with enough pairs listed."""
        full = (self.listed[first] >= LISTED) | (self.listed[second] >= LISTED)
        a, b = self.owners[first], self.owners[second]
        return np.flatnonzero((a != b) & ~((self.cluster[a] == self.cluster[b]) & full))

    def _accept(self, found: Sequence[tuple[Integers, Integers]], *, turn: int) -> None:
        """List the near-duplicates among candidates that were not looked at before."""
        if not found:
            return
        first, second = (np.concatenate(part) for part in zip(*found, strict=True))
        codes = (first * len(self.hashes) + second) * 8 + turn
        places = np.searchsorted(self.checked, codes).clip(max=max(len(self.checked) - 1, 0))
        new = np.flatnonzero(self.checked[places] != codes) if len(self.checked) else np.arange(len(codes))
        if len(new):
            self.checked = np.sort(np.concatenate([self.checked, codes[new]]))
            self._list(first[new], second[new], turn=turn)

    def _list(self, first: Integers, second: Integers, *, turn: int) -> None:
        """List the candidates whose thumbnails correlate, and join their clusters."""
        for begin in range(0, len(first), _LOOKS):
            one, other = first[begin : begin + _LOOKS], second[begin : begin + _LOOKS]
            worth = self._worth(one, other)
            one, other = one[worth], other[worth]
            alike = self._correlations(one, other, turn) >= MIN_CORRELATION
            for i, j in zip(one[alike].tolist(), other[alike].tolist(), strict=True):
                self._join(min(i, j), max(i, j))

    def _correlations(self, first: Integers, second: Integers, turn: int) -> NDArray[np.float64]:
        """Pearson correlation of the thumbnails of ``first`` in the given orientation with those of ``second``."""
        x = _oriented(np.asarray(self.thumbnails[first]), turn).reshape(-1, THUMBNAIL**2)
        y = np.asarray(self.thumbnails[second]).reshape(-1, THUMBNAIL**2)
        x, y = (v - v.mean(axis=1, keepdims=True) for v in (x.astype(np.float64), y.astype(np.float64)))
        norm = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        return np.asarray((x * y).sum(axis=1) / norm)

    def _join(self, i: int, j: int) -> None:
        a, b = (int(self.cluster[self.owners[image]]) for image in (i, j))
        if a == b and max(self.listed[i], self.listed[j]) >= LISTED:
            return
        if (i, j) not in self.pairs:
            self.pairs.add((i, j))
            self.listed[[i, j]] += 1
        if a == b:
            return
        small, large = sorted((a, b), key=lambda c: len(self.members.get(c, (c,))))
        moved = self.members.pop(small, [small])
        self.members.setdefault(large, [large]).extend(moved)
        self.cluster[moved] = large


def _ones(words: Integers) -> Integers:
    """Number of ones in each 64-bit word; NumPy 1 has no ``bitwise_count``."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    table = np.array([bin(value).count("1") for value in range(256)], dtype=np.int16)
    counts: Integers = table[np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, -1)].sum(-1)
    return counts
