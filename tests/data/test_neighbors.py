# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.data import neighbors
from bundle.data.duplicates import Fingerprint, Fingerprints, near_duplicates

Bits = NDArray[np.uint8]


def clusters(sizes: list[int], *, flips: int, seed: int) -> tuple[Bits, Bits]:
    """Bits (N, 8, 256) and thumbnails of clusters: of a cluster's first image, each other differs in ``flips`` bits."""
    rng = np.random.default_rng(seed)
    bits, thumbnails = [], []
    for size in sizes:
        first, thumbnail = rng.integers(0, 2, (8, 256), np.uint8), rng.integers(0, 256, (32, 32), np.uint8)
        for number in range(size):
            changed = first.copy()
            for orientation in range(8):
                changed[orientation, rng.choice(256, flips if number else 0, replace=False)] ^= 1
            bits.append(changed)
            thumbnails.append(thumbnail)
    return np.stack(bits), np.stack(thumbnails)


def prints(bits: Bits, thumbnails: Bits) -> Fingerprints:
    return Fingerprints(Fingerprint(np.packbits(b, axis=1), t) for b, t in zip(bits, thumbnails, strict=True))


def brute_force(bits: Bits) -> list[tuple[int, int]]:
    """Pairs of which at most 60 of 256 bits differ in any orientation of the first."""
    return [
        (i, j)
        for i in range(len(bits))
        for j in range(i + 1, len(bits))
        if ((bits[i] != bits[j, 0]).sum(axis=1) <= 60).any()
    ]


@pytest.mark.parametrize(("few", "flips"), [(0, 3), (50_000, 6)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_comparing_all_pairs_finds_is_found(
    monkeypatch: pytest.MonkeyPatch, seed: int, few: int, flips: int
) -> None:
    """Clusters of 1 to 7 images, each with bits of the first changed: 3 for keys of blocks, 6 for short keys."""
    monkeypatch.setattr(neighbors, "_FEW", few)
    sizes = np.random.default_rng(seed).integers(1, 8, 100).tolist()
    bits, thumbnails = clusters(sizes, flips=flips, seed=seed)
    assert near_duplicates(prints(bits, thumbnails)) == brute_force(bits)


def test_six_low_frequency_bits_may_differ_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image's low-frequency bits are changed in six places, 200 times over, for nine blocks of six."""
    monkeypatch.setattr(neighbors, "_FEW", 0)
    places = np.array([16 * u + v for u in range(16) for v in range(16) if 0 < u + v < 10])
    rng = np.random.default_rng(0)
    bits, thumbnails = clusters([1] * 200, flips=0, seed=0)
    copies = bits.copy()
    for copy in copies:
        copy[0, rng.choice(places, 6, replace=False)] ^= 1
    found = near_duplicates(prints(np.concatenate([bits, copies]), np.concatenate([thumbnails, thumbnails])))
    assert found == [(i, i + 200) for i in range(200)]


def test_copies_among_thousands_are_found() -> None:
    """3,000 fingerprints, of which 2 x 50 are pairs with 20 of 256 bits changed."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (3000, 8, 256), dtype=np.uint8)
    thumbnails = rng.integers(0, 256, (3000, 32, 32), dtype=np.uint8)
    for i in range(50):
        bits[i + 1000] = bits[i]
        bits[i + 1000, :, rng.choice(256, 20, replace=False)] ^= 1
        thumbnails[i + 1000] = thumbnails[i]
    assert near_duplicates(prints(bits, thumbnails)) == [(i, i + 1000) for i in range(50)]


def test_identical_images_are_listed_with_the_first() -> None:
    bits, thumbnails = clusters([3, 1, 2], flips=0, seed=0)
    assert near_duplicates(prints(bits, thumbnails)) == [(0, 1), (0, 2), (4, 5)]
    black = [np.zeros_like(thumbnails[0])] * 6
    assert near_duplicates(prints(bits, np.stack(black))) == []


def test_images_of_one_owner_are_not_compared() -> None:
    bits, thumbnails = clusters([4, 2], flips=4, seed=0)
    owners = ["a", "a", "b", "b", "c", "c"]
    assert near_duplicates(prints(bits, thumbnails), owners=owners) == [(0, 2), (0, 3), (1, 2), (1, 3)]


@pytest.mark.parametrize(("chunk", "large"), [(1 << 18, 2048), (1000, 50)])
def test_a_giant_cluster_is_joined_and_not_listed_in_full(
    monkeypatch: pytest.MonkeyPatch, chunk: int, large: int
) -> None:
    """150 near copies of one image would be 11,175 pairs; also when their key is taken for a crowded one."""
    monkeypatch.setattr(neighbors, "_CHUNK", chunk)
    monkeypatch.setattr(neighbors, "_LARGE", large)
    bits, thumbnails = clusters([150, 1, 2], flips=3, seed=0)
    pairs = near_duplicates(prints(bits, thumbnails))
    assert len(pairs) <= 150 * neighbors.LISTED
    assert (151, 152) in pairs
    joined = {0}
    for _ in range(5):
        joined |= {i for pair in pairs if joined & set(pair) for i in pair}
    assert joined == set(range(150))
