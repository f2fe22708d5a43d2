# SPDX-License-Identifier: Apache-2.0
"""Manifests of 10,000 to a million items, made up: written, read, loaded, split, searched for near-duplicates."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from scripts.growth_parts.isolated import Row, Watch, isolated

SETS = (("Breast", "breast", "tumor", True), ("Thyroid", "thyroid", "tumor", True), ("Lung", "lung", "organ", False))
CLASSES = {"breast": ["normal", "benign", "malignant"], "lung": ["healthy", "pneumonia", "covid-19"]}
NETWORK: dict[str, Any] = {
    "structures": ["background", "lesion"],
    "label_sets": CLASSES,
    "positions": ["breast", "thyroid", "lung"],
}
IMAGES_PER_PATIENT = 5


def measure(sizes: Sequence[int], *, seed: int) -> list[Row]:
    """A row per size and step."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "datalist.json")
            found: list[Row] = []
            for work in (write, read, split, load):
                found += isolated(work, path=path, size=size, seed=seed)
            found += isolated(search, size=size, seed=seed)
            rows += [{"items": size, **row} for row in found]
    return rows


def make_items(size: int, seed: int) -> Iterator[dict[str, Any]]:
    """Items of three sets, with patients of one to nine images; of each set's classes and masks."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(size), rng.integers(1, 2 * IMAGES_PER_PATIENT, size))[:size]
    for index, (patient, label) in enumerate(zip(patients.tolist(), rng.integers(0, 3, size).tolist(), strict=True)):
        name, position, _, masks = SETS[patient % len(SETS)]
        owner = f"{name}_hospital/p{patient:06d}"
        stem = f"{name.lower()}_p{patient:06d}_{index:07d}"
        item: dict[str, Any] = {"image": f"segmentation/{name}_hospital/imgs/{stem}.png"}
        item |= {"dataset": f"{name}_hospital", "patient": owner, "group": owner}
        if masks:
            item["label"] = f"segmentation/{name}_hospital/masks/{stem}.png"
        if position in CLASSES:
            item["class"] = CLASSES[position][label]
        yield item


def make_manifest(size: int, seed: int) -> dict[str, Any]:
    """A valid manifest of so many made-up items, split by patient."""
    from bundle.data.splits import split_items

    datasets: dict[str, Any] = {}
    for name, position, nature, masks in SETS:
        entry: dict[str, Any] = {"position": position, "nature": nature}
        if masks:
            entry["mask_values"] = {"0": "background", "255": "lesion"}
        if position in CLASSES:
            entry |= {"label_set": position, "classes": CLASSES[position]}
        datasets[f"{name}_hospital"] = entry
    items = list(make_items(size, seed))
    split_items(items, fractions={"train": 0.7, "val": 0.15, "test": 0.15}, seed=seed)
    split = {"seed": seed, "leaks": [], "leaks_accepted": False}
    return {"version": 1, "root": ".", "datasets": datasets, "split": split, "items": items}


def write(watch: Watch, *, path: str, size: int, seed: int) -> None:
    """The manifest to its file."""
    from bundle.data.assemble import write_datalist

    manifest = make_manifest(size, seed)
    with watch.step("write") as row:
        write_datalist(manifest, path)
    row["file_mb"] = round(Path(path).stat().st_size / 1e6, 1)


def read(watch: Watch, *, path: str, size: int, seed: int) -> None:
    """Reading and checking; JSON alone for comparison."""
    from bundle.data.datalist import read_datalist

    with watch.step("read and check"):
        read_datalist(path)
    with watch.step("of which JSON"):
        json.loads(Path(path).read_text(encoding="utf-8"))


def split(watch: Watch, *, path: str, size: int, seed: int) -> None:
    """The split by patient, with five folds."""
    from bundle.data.splits import split_items

    items = list(make_items(size, seed))
    with watch.step("split by patient, 5 folds"):
        split_items(items, fractions={"train": 0.7, "val": 0.15, "test": 0.15}, seed=seed, folds=5)


def load(watch: Watch, *, path: str, size: int, seed: int) -> None:
    """The training split, its sampler and what a loader process makes of its memory."""
    from bundle.data.datalist import load_split

    with watch.step("load training split"):
        items = load_split(path, split="train", **NETWORK)
    from bundle.data.sampling import BalancedSampler  # not before: PyTorch takes hundreds of megabytes

    tasks = {"segmentation": 0.7, "classification": 0.3}
    with watch.step("sampling weights"):
        sampler = BalancedSampler(items, seed=seed, batch_size=16, task_weights=tasks)
    with watch.step("draws of an epoch"):
        for _ in sampler:
            pass
    with watch.step("loader process over all items") as row:
        row["own_mb"] = round(_own_memory_after_a_pass(items))
    with watch.step("loader process over all items, were they a list of dictionaries") as row:
        row["own_mb"] = round(_own_memory_after_a_pass(list(items)))


def _own_memory_after_a_pass(data: Sequence[Any]) -> float:
    """Memory in 10^6 bytes that a forked process no longer shares once it has looked at all items."""
    context = get_context("fork")
    here, there = context.Pipe(duplex=False)

    def visit() -> None:
        before = _private_mb()
        for item in data:
            item["image"]
        there.send(_private_mb() - before)

    process = context.Process(target=visit)
    process.start()
    memory: float = here.recv()
    process.join()
    return memory


def _private_mb() -> float:
    path = Path("/proc/self/smaps_rollup")
    if not path.is_file():
        return float("nan")
    return sum(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("Private")) / 1e3


def search(watch: Watch, *, size: int, seed: int) -> None:
    """Near-duplicates among random hashes, of which a tenth are copies with 5 % of the bits changed."""
    from bundle.data.duplicates import Fingerprint, Fingerprints, near_duplicates

    rng, prints, made = np.random.default_rng(seed), Fingerprints(), 0
    while made < size:
        count = min(8192, size - made)
        hashes = rng.integers(0, 256, (count, 8, 32), dtype=np.uint8)
        thumbnails = rng.integers(0, 256, (count, 32, 32), dtype=np.uint8)
        copies = count // 10
        noise = np.packbits(rng.random((copies, 8, 256)) < 0.05, axis=2)
        hashes[copies : 2 * copies] = hashes[:copies] ^ noise
        thumbnails[copies : 2 * copies] = thumbnails[:copies]
        for pair in zip(hashes, thumbnails, strict=True):
            prints.append(Fingerprint(*pair))
        made += count
    with watch.step("near-duplicates") as row:
        row["pairs"] = len(near_duplicates(prints))
    row["copies_made"] = size // 8192 * 819 + size % 8192 // 10
