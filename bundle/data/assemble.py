# SPDX-License-Identifier: Apache-2.0
"""From what the readers found to one manifest: files checked, near-duplicates joined, split by patient."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from tqdm import tqdm

from bundle.data import neighbors
from bundle.data.duplicates import Fingerprint, Fingerprints, fingerprint, near_duplicates
from bundle.data.known_sets import PublicSet
from bundle.data.manifest import check_datalist
from bundle.data.split_table import absent_classes
from bundle.data.splits import SPLITS, find_leaks, join_groups, split_items


@dataclass
class Assembly:
    """A manifest and what there is to say about it.

    ``pairs`` are the near-duplicates of different patients, as indices of the manifest's items; ``problems`` the files
    that were left out.
    """

    manifest: dict[str, Any]
    pairs: list[tuple[int, int]]
    problems: list[str]
    notices: list[str]


def assemble(
    sets: Sequence[PublicSet],
    *,
    folder: str | Path,
    fractions: Mapping[str, float],
    seed: int,
    folds: int | None = None,
    given: bool = False,
    leaks_accepted: bool = False,
    workers: int = 1,
) -> Assembly:
    """One manifest of all sets.

    Args:
        sets: what the readers found.
        folder: where the manifest will lie; its root is relative to it.
        fractions: share of train, val and test.
        seed: seed of the split.
        folds: number of folds outside the test split.
        given: the sets' own splits were asked for.
        leaks_accepted: note in the manifest that the user accepts its leaks.
        workers: processes that read images.

    Raises:
        ValueError: when two sets have one name but differ, no readable image is left, or there are fewer groups than
            folds.
    """
    datasets = _join_datasets(sets)
    problems = [problem for found in sets for problem in found.problems]
    items = sorted((dict(item) for found in sets for item in found.items), key=lambda i: (i["dataset"], i["image"]))
    items, prints, scaled = _readable(items, problems=problems, workers=workers)
    if not items:
        raise ValueError(
            f"expected images, got none that can be read ({len(problems)} left out{_first(problems)}); "
            "correct the paths."
        )
    pairs = near_duplicates(prints, owners=[item["patient"] for item in items])
    for item, group in zip(items, join_groups([i["patient"] for i in items], pairs), strict=True):
        item["group"] = group
    split_items(items, fractions=fractions, seed=seed, folds=folds)
    _check_folds(items, folds=folds)
    root = _common_root(items)
    for item in items:
        _make_relative(item, root=root)
    manifest = {
        "version": 1,
        "root": os.path.relpath(root, os.path.realpath(folder)),
        "datasets": {
            name: datasets[name] | ({"mask_scaled": True} if scaled[name] else {})
            for name in sorted({item["dataset"] for item in items})
        },
        "split": {
            "seed": seed,
            "fractions": dict(fractions),
            "folds": folds,
            "given": given,
            "near_duplicates": len(pairs),
            "leaks": find_leaks(items, pairs),
            "leaks_accepted": leaks_accepted,
        },
        "items": items,
    }
    check_datalist(manifest, name="the new manifest")
    notices = [notice for found in sets for notice in found.notices] + _notices(items, pairs)
    notices += [
        f"{name}: {count} masks have another size than their image, of the same proportions; they are scaled when read"
        for name, count in scaled.items()
        if count
    ]
    return Assembly(manifest, pairs, problems, notices)


def write_datalist(manifest: Mapping[str, Any], path: str | Path) -> None:
    """Write a manifest in one step: the file is either whole or as it was before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {key: value for key, value in manifest.items() if key != "items"}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "items": [\n')
            for index, item in enumerate(manifest["items"]):
                file.write((",\n  " if index else "  ") + json.dumps(item, ensure_ascii=False))
            file.write("\n ]\n}\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def summary_table(assembly: Assembly) -> str:
    """The manifest in figures, one line per data set and one in total, as text."""
    items = assembly.manifest["items"]
    names = list(assembly.manifest["datasets"])
    header = ["dataset", "images", "masks", "classes", "patients", "groups", "largest group", "near-duplicate pairs"]
    rows = [[*header, "train/val/test"]]
    of_set: dict[str, list[int]] = {name: [] for name in names}
    for index, item in enumerate(items):
        of_set[item["dataset"]].append(index)
    pairs = Counter(name for i, j in assembly.pairs for name in {items[i]["dataset"], items[j]["dataset"]})
    rows += [_summary_row(name, own=[items[i] for i in of_set[name]], pairs=pairs[name]) for name in names]
    if len(names) > 1:
        rows.append(_summary_row("total", own=items, pairs=len(assembly.pairs)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _summary_row(name: str, *, own: Sequence[Mapping[str, Any]], pairs: int) -> list[str]:
    splits = Counter(item["split"] for item in own)
    groups = Counter(item["group"] for item in own)
    classes = Counter(item["class"] for item in own if "class" in item)
    counts = [
        len(own),
        sum("label" in item for item in own),
        " ".join(f"{label}:{n}" for label, n in sorted(classes.items())) if name != "total" else sum(classes.values()),
        len({item["patient"] for item in own}),
        len(groups),
        max(groups.values()),
        pairs,
        "/".join(str(splits[split]) for split in SPLITS),
    ]
    return [name, *(str(count) or "-" for count in counts)]


def _join_datasets(sets: Sequence[PublicSet]) -> dict[str, Any]:
    datasets: dict[str, Any] = {}
    for found in sets:
        for name, entry in found.datasets.items():
            if datasets.setdefault(name, entry) != entry:
                raise ValueError(
                    f"data set {name!r}: expected one description, got two that differ ({datasets[name]} and {entry}); "
                    "rename one of the folders."
                )
    return datasets


def _readable(
    items: Sequence[dict[str, Any]], *, problems: list[str], workers: int
) -> tuple[list[dict[str, Any]], Fingerprints, Counter[str]]:
    """The items whose files can be read, their fingerprints, and per data set the masks of another scale.

    The other items are named in ``problems``.
    """
    kept: list[dict[str, Any]] = []
    prints = Fingerprints()
    scaled: Counter[str] = Counter()
    files = ([item["image"], *_labels(item)] for item in items)
    with Pool(workers) if workers > 1 else nullcontext() as pool:
        results = pool.imap(_examine, files, chunksize=16) if pool else map(_examine, files)
        bar = tqdm(results, desc="reading images", unit="image", total=len(items), leave=False)
        for item, (problem, mark, rescaled) in zip(items, bar, strict=True):
            if mark is None:
                problems.append(problem)
                continue
            scaled[item["dataset"]] += rescaled
            kept.append(item)
            prints.append(mark)
    return kept, prints, scaled


def _examine(paths: Sequence[str]) -> tuple[str, Fingerprint | None, bool]:
    """Of an image and its masks: what is wrong with them, or the fingerprint and whether masks have another scale."""
    image = path = paths[0]
    try:
        mark = fingerprint(image)
        sizes = {}
        for path in paths:
            sizes[path] = _size(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{path}: expected an image, got a file that cannot be read ({_reason(path, error)})", None, False
    size = sizes[image]
    for mask, other in sizes.items():
        if not _same_proportions(size, other):
            return (
                f"{mask}: expected a mask of the proportions of its image {image}, {size[0]}x{size[1]} "
                f"(columns x rows), got {other[0]}x{other[1]}",
                None,
                False,
            )
    return "", mark, any(other != size for other in sizes.values())


def _size(path: str) -> tuple[int, int]:
    """Columns and rows of an image as it is loaded: upright, by its EXIF orientation."""
    with Image.open(path) as image:
        lying = image.getexif().get(ExifTags.Base.Orientation) in range(5, 9) and image.format != "TIFF"
        return (image.height, image.width) if lying else (image.width, image.height)  # Pillow turns TIFF by itself


def _same_proportions(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other's at another scale, within a pixel of rounding."""
    scale = max(size) / max(other)
    return all(abs(a - b * scale) <= max(1.0, scale) for a, b in zip(size, other, strict=True))


def _reason(path: str, error: Exception) -> str:
    if os.path.isdir(path):
        return "it is a folder"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "it is empty"
    return str(error).replace(f" {path!r}", "")


def _labels(item: Mapping[str, Any]) -> list[str]:
    label = item.get("label", [])
    return [label] if isinstance(label, str) else list(label)


def _common_root(items: Sequence[Mapping[str, Any]]) -> str:
    folders = {os.path.dirname(path) for item in items for path in (item["image"], *_labels(item))}
    return str(os.path.commonpath(sorted(folders)))


def _make_relative(item: dict[str, Any], *, root: str) -> None:
    label = item.get("label")
    item["image"] = Path(os.path.relpath(item["image"], root)).as_posix()
    if isinstance(label, str):
        item["label"] = Path(os.path.relpath(label, root)).as_posix()
    elif label:
        item["label"] = [Path(os.path.relpath(path, root)).as_posix() for path in label]


def _check_folds(items: Sequence[Mapping[str, Any]], *, folds: int | None) -> None:
    used = {item["fold"] for item in items if "fold" in item}
    if folds and len(used) < folds:
        raise ValueError(
            f"expected at least {folds} groups of patients outside the test split for {folds} folds, got {len(used)}; "
            "ask for fewer --folds."
        )


def _notices(items: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[int, int]]) -> list[str]:
    notices = []
    differ = [(i, j) for i, j in pairs if items[i].get("class") != items[j].get("class")]
    if differ:
        i, j = differ[0]
        notices.append(
            f"{len(differ)} near-duplicate pairs have different classes, the first {items[i]['image']} "
            f"({items[i].get('class')}) and {items[j]['image']} ({items[j].get('class')}): one of each pair is wrong"
        )
    for split in SPLITS:
        if not any(item["split"] == split for item in items):
            notices.append(f"the {split} split is empty")
    if len(items) > neighbors.EXACT:
        notices.append(
            f"the search for near-duplicates is approximate for {len(items)} images and may miss some pairs: up to "
            f"{neighbors.EXACT} images all pairs are compared, of more only those that share part of the hash"
        )
    return notices + absent_classes(items)


def _first(problems: Sequence[str]) -> str:
    return f", the first: {problems[0]}" if problems else ""
