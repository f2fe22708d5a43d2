# SPDX-License-Identifier: Apache-2.0
"""The images that an encoder learns from, without their labels."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from bundle.data.datalist import read_datalist, split_parts
from bundle.data.strangers import DATASET, sources
from bundle.pretraining.archive import archive_images
from bundle.vocabulary import NO_ORGAN, switch

logger = logging.getLogger(__name__)


def drawn_by(items: Sequence[Mapping[str, Any]], balance: str) -> list[dict[str, Any]]:
    """The items as a sampler sees them: each data set, or each organ that is known, is drawn as often as another.

    Args:
        items: of :func:`images_to_learn_from`.
        balance: ``dataset``, or ``organ``; images of no known organ then count as their data set.

    Raises:
        ValueError: when it is neither.
    """
    if balance not in ("dataset", "organ"):
        raise ValueError(f"balance must be dataset or organ, got {balance!r}; correct it.")
    known = balance == "organ"
    return [{**item, "dataset": (known and item.get("organ")) or item["dataset"]} for item in items]


class Images:
    """The one question of a pretraining, which every image answers: what a sampler balances by data set."""

    group = "images"

    def has(self, item: Mapping[str, Any]) -> bool:
        """True."""
        return True


def images_to_learn_from(
    dataset_dir: str | Path,
    *,
    frames_dir: str | Path,
    manifest: str | Path | None = None,
    fold: int | None = None,
    frames: int = 12,
    natural: bool | str = False,
) -> list[dict[str, Any]]:
    """The images of a folder: the training split where it holds ``datalist.json``, else all that are found in it.

    Args:
        dataset_dir: folder of a manifest, or of pictures, DICOM files and videos in any depth.
        frames_dir: folder of the frames of DICOM files and videos.
        manifest: ``datalist.json`` whose validation and test images are kept out of a folder without one.
        fold: of the manifest, that is kept out as validation images are; None: none.
        frames: of a clip, at most.
        natural: whether photographs of installed packages join, as a data set ``natural``; those whose parts are among
            the held-out images do not.

    Raises:
        FileNotFoundError, ValueError: as :func:`training_images` and :func:`bundle.pretraining.archive.archive_images`.
    """
    if (own := Path(dataset_dir, "datalist.json")).is_file():
        if manifest is not None and Path(manifest).resolve() != own.resolve():
            raise ValueError(
                f"{own}: expected a folder without a manifest beside --manifest {manifest}, got one; leave --manifest"
                " out, or name the folder of the images with --dataset_dir."
            )
        images, manifest = training_images(own, fold=fold), own
        return images + (_photographs(manifest, fold) if switch(natural, "natural_images") else [])
    with idist.one_rank_first():  # of several processes, the first one writes the frames
        images = archive_images(dataset_dir, frames_dir=frames_dir, manifest=manifest, fold=fold, frames=frames)
    return images + (_photographs(manifest, fold) if switch(natural, "natural_images") else [])


def _photographs(manifest: str | Path | None, fold: int | None) -> list[dict[str, Any]]:
    """The photographs that installed packages ship, without those that a manifest's held-out images are parts of."""
    held: set[str] = set()
    if manifest is not None:
        content = read_datalist(manifest, labels=False)
        parts = split_parts(content, split="train", fold=fold, name=str(manifest))
        items = zip(content["items"], parts, strict=True)
        held = {item["patient"].removeprefix(f"{DATASET}/") for item, part in items if part != "train"}
    found = {name: path for name, path in sources().items() if name not in held and path.suffix != ".dcm"}
    logger.info(f"{len(found)} photographs of installed packages join")
    return [
        {"image": str(path), "dataset": "natural", "patient": name, "organ": NO_ORGAN}
        for name, path in sorted(found.items())
    ]


def learned_from(items: Sequence[Mapping[str, Any]], dataset_dir: str | Path) -> list[str] | None:
    """Names of a manifest's data sets that an encoder learns from, for its file; None for a folder without a manifest.

    Folders of an archive may be called after patients: their names do not belong into weights.
    """
    if not Path(dataset_dir, "datalist.json").is_file():
        return None
    return sorted({item["dataset"] for item in items})


def training_images(datalist: str | Path, fold: int | None = None) -> list[dict[str, Any]]:
    """The images of a manifest's training split, without labels: those of validation and test are kept out.

    Args:
        datalist: path of the manifest.
        fold: see :func:`images_to_learn_from`.

    Returns:
        Items of ``image`` (absolute path), ``dataset``, ``patient`` and ``organ``, "" where neither the item nor its
        data set tells it.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the manifest is not valid, a group of near-duplicates is in the training split and in another,
            or the training split is empty.
    """
    manifest = read_datalist(datalist, labels=False)
    root = os.path.normpath(os.path.join(os.path.realpath(Path(datalist).parent), manifest["root"]))
    parts = split_parts(manifest, split="train", fold=fold, name=str(datalist))
    groups = {item["group"] for item, part in zip(manifest["items"], parts, strict=True) if part in ("val", "test")}
    chosen = [item for item, part in zip(manifest["items"], parts, strict=True) if part == "train"]
    if shared := [item for item in chosen if item["group"] in groups]:
        got = f"{len(shared)} that are near-duplicates of others, or of their patients"
        raise ValueError(
            f"{datalist}: expected images of the training split alone, got {got}; make the manifest again without "
            "--given-splits."
        )
    counts = Counter(item["dataset"] for item in chosen)
    kept_out = len(manifest["items"]) - len(chosen)
    logger.info(
        f"{len(chosen)} images to learn from ({', '.join(f'{name} {n}' for name, n in sorted(counts.items()))}); "
        f"{kept_out} of validation and test are kept out"
    )
    if fold is None and any("fold" in item for item in chosen):
        logger.warning(
            f"{datalist} has folds; for a training with --fold NUMBER, give the pretraining the same --fold."
        )
    return [_named(item, manifest["datasets"][item["dataset"]], root=root) for item in chosen]


def _named(item: Mapping[str, Any], table: Mapping[str, Any], *, root: str) -> dict[str, Any]:
    """What an item and the table of its data set tell of an image."""
    organ = item.get("organ") or table.get("organ") or table.get("position") or ""
    path = os.path.join(root, item["image"])
    return {"image": path, "dataset": item["dataset"], "patient": item["patient"], "organ": organ}
