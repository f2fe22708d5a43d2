# SPDX-License-Identifier: Apache-2.0
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.data.duplicates import Fingerprints, fingerprint, near_duplicates
from bundle.data.splits import find_leaks, join_groups, split_items

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def make_items(patients: int, per_patient: int = 2) -> list[dict[str, Any]]:
    """Items of one set whose every fourth patient is of class b."""
    return [
        {"image": f"{p}_{i}.png", "dataset": "S", "patient": f"S/{p}", "group": f"S/{p}", "class": "ab"[p % 4 == 0]}
        for p in range(patients)
        for i in range(per_patient)
    ]


def parts(items: list[dict[str, Any]], key: str = "split") -> dict[str, Any]:
    return {item["image"]: item.get(key) for item in items}


def test_groups_join_patients_over_near_duplicates() -> None:
    assert join_groups(["b", "a", "c", "a", "d"], [(0, 3), (1, 2)]) == ["a", "a", "a", "a", "d"]


def test_split_keeps_groups_whole_and_shares_every_class() -> None:
    items = make_items(200)
    split_items(items, fractions=FRACTIONS, seed=0)
    assert Counter(item["split"] for item in items) == {"train": 280, "val": 60, "test": 60}
    assert Counter(item["split"] for item in items if item["class"] == "b") == {"train": 70, "val": 16, "test": 14}
    assert len({(item["group"], item["split"]) for item in items}) == 200


def test_split_depends_on_the_seed_and_not_on_the_order() -> None:
    first, shuffled, other = make_items(50), make_items(50), make_items(50)
    random.Random(0).shuffle(shuffled)
    split_items(first, fractions=FRACTIONS, seed=1, folds=3)
    split_items(shuffled, fractions=FRACTIONS, seed=1, folds=3)
    split_items(other, fractions=FRACTIONS, seed=2, folds=3)
    assert parts(first) == parts(shuffled) != parts(other)
    assert parts(first, "fold") == parts(shuffled, "fold")


def test_folds_cover_all_but_the_test_split_and_keep_groups_whole() -> None:
    items = make_items(100)
    split_items(items, fractions=FRACTIONS, seed=0, folds=5)
    assert all(("fold" in item) == (item["split"] != "test") for item in items)
    counts = Counter(item["fold"] for item in items if "fold" in item)
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert max(counts.values()) - min(counts.values()) <= 2
    assert len({(i["group"], i["fold"]) for i in items if "fold" in i}) == len(
        {i["group"] for i in items if "fold" in i}
    )


def test_given_splits_stay_and_the_rest_of_a_group_follows() -> None:
    items = make_items(20)
    items[0]["split"] = "test"
    split_items(items, fractions={"train": 1.0, "val": 0.0, "test": 0.0}, seed=0)
    assert Counter(item["split"] for item in items) == {"test": 2, "train": 38}


def test_leaks_name_the_images_and_the_reason() -> None:
    items = [
        {"image": "a.png", "patient": "S/1", "split": "train"},
        {"image": "b.png", "patient": "S/1", "split": "test"},
        {"image": "c.png", "patient": "S/2", "split": "val"},
        {"image": "d.png", "patient": "S/3", "split": "val"},
    ]
    assert find_leaks(items, [(0, 2), (2, 3)]) == [
        ["a.png", "b.png", "patient S/1 in train and test"],
        ["a.png", "c.png", "near-duplicates in train and val"],
    ]


def picture(seed: int, size: tuple[int, int] = (96, 128)) -> Image.Image:
    """A random image of coarse shapes and finer texture."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)) for n in (8, 32)]
    coarse, fine = (layer.resize(size[::-1], Image.Resampling.BICUBIC) for layer in layers)
    return Image.blend(coarse, fine, 0.5)


def prints(folder: Path, images: list[Image.Image]) -> Fingerprints:
    paths = [folder / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return Fingerprints(fingerprint(path) for path in paths)


@pytest.mark.parametrize("turn", [None, *Image.Transpose], ids=lambda turn: getattr(turn, "name", "same"))
def test_turned_mirrored_and_marked_copies_are_near_duplicates(tmp_path: Path, turn: Image.Transpose | None) -> None:
    original = picture(0)
    copy = original.copy() if turn is None else original.transpose(turn)
    copy = copy.resize((copy.width * 2 // 3, copy.height * 2 // 3))
    copy.paste(255, (5, 5, 9, 9))  # a caliper
    images = [picture(1), original, picture(2), copy, picture(3)]
    assert near_duplicates(prints(tmp_path, images)) == [(1, 3)]


def test_similar_and_blank_images_are_not_near_duplicates(tmp_path: Path) -> None:
    shading = np.linspace(200, 0, 96)[:, None] / 400  # what all ultrasound shares: bright above, dark below
    images = [Image.fromarray((np.asarray(picture(i)) * (0.5 + shading)).astype(np.uint8)) for i in range(30)]
    blank = [Image.new("L", (64, 64), 7)] * 3
    assert near_duplicates(prints(tmp_path, images + blank)) == []
    assert near_duplicates(Fingerprints()) == []


def test_sixteen_bit_images_have_the_fingerprint_of_their_eight_bit_copy(tmp_path: Path) -> None:
    eight = picture(0)
    sixteen = Image.fromarray(np.asarray(eight).astype(np.uint16) * 200)
    assert near_duplicates(prints(tmp_path, [eight, sixteen])) == [(0, 1)]
