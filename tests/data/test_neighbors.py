# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.data import neighbors
from bundle.data.duplicates import Fingerprint, Fingerprints, fingerprint, near_duplicates
from bundle.data.neighbors import orientations

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


@pytest.mark.parametrize(("exact", "flips"), [(0, 3), (50_000, 29), (50_000, 31)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_comparing_all_pairs_finds_is_found(
    monkeypatch: pytest.MonkeyPatch, seed: int, exact: int, flips: int
) -> None:
    """Clusters of 1 to 7 images, each with bits of the first changed: 3 for keys, 29 and 31 for all pairs."""
    monkeypatch.setattr(neighbors, "EXACT", exact)
    sizes = np.random.default_rng(seed).integers(1, 8, 100).tolist()
    bits, thumbnails = clusters(sizes, flips=flips, seed=seed)
    assert near_duplicates(prints(bits, thumbnails)) == brute_force(bits)


def test_six_low_frequency_bits_may_differ_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image's low-frequency bits are changed in six places, 200 times over, for nine blocks of six."""
    monkeypatch.setattr(neighbors, "EXACT", 0)
    places = np.array([16 * u + v for u in range(16) for v in range(16) if 0 < u + v < 10])
    rng = np.random.default_rng(0)
    bits, thumbnails = clusters([1] * 200, flips=0, seed=0)
    copies = bits.copy()
    for copy in copies:
        copy[0, rng.choice(places, 6, replace=False)] ^= 1
    found = near_duplicates(prints(np.concatenate([bits, copies]), np.concatenate([thumbnails, thumbnails])))
    assert found == [(i, i + 200) for i in range(200)]


def test_all_pairs_are_compared_across_blocks_of_rows_and_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_ROWS", 3)
    monkeypatch.setattr(neighbors, "_COLUMNS", 7)
    bits, thumbnails = clusters([2, 1, 5, 3] * 5, flips=30, seed=0)
    order = np.random.default_rng(0).permutation(len(bits))
    pairs = near_duplicates(prints(bits[order], thumbnails[order]))
    assert len(pairs) > 50
    assert pairs == brute_force(bits[order])


def test_real_pairs_near_the_limit_are_found(real_data: Path) -> None:
    """Two pairs of USGRA, 56 to 58 bits apart, that the keys miss; and no pair is missed."""
    paths = sorted((real_data / "segmentation/USGRA/imgs").glob("*.png"))
    if not paths:
        pytest.skip(f"no USGRA in {real_data}")
    marks = [fingerprint(path) for path in paths]
    found = {(paths[i].stem, paths[j].stem) for i, j in near_duplicates(Fingerprints(marks))}
    assert {("0036", "0146"), ("0023", "0109")} <= {(min(a[-4:], b[-4:]), max(a[-4:], b[-4:])) for a, b in found}
    bits = np.unpackbits(np.stack([mark.hashes for mark in marks]), axis=2)
    near = {(paths[i].stem, paths[j].stem) for i, j in brute_force(bits)}
    near |= {(a, b) for b, a in ((paths[-1 - i].stem, paths[-1 - j].stem) for i, j in brute_force(bits[::-1]))}
    thumbnails = {path.stem: mark.thumbnail for path, mark in zip(paths, marks, strict=True)}
    assert found <= near
    for one, other in near - found:  # refused by the thumbnails in every orientation
        turned = orientations(thumbnails[one])
        assert max(np.corrcoef(t.ravel(), thumbnails[other].ravel())[0, 1] for t in turned) < neighbors.MIN_CORRELATION


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


@pytest.mark.parametrize(("exact", "chunk", "large"), [(50_000, 0, 0), (0, 1 << 18, 2048), (0, 1000, 50)])
def test_a_giant_cluster_is_joined_and_not_listed_in_full(
    monkeypatch: pytest.MonkeyPatch, exact: int, chunk: int, large: int
) -> None:
    """150 near copies of one image would be 11,175 pairs; also when their key is taken for a crowded one."""
    monkeypatch.setattr(neighbors, "EXACT", exact)
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
