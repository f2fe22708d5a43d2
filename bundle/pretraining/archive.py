# SPDX-License-Identifier: Apache-2.0
"""The images of a folder that nobody sorted: pictures, DICOM and clips in any depth, without labels or a list."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bundle.data.datalist import read_datalist, split_parts
from bundle.data.duplicates import Fingerprint, Fingerprints, near_duplicates
from bundle.data.examine import examine
from bundle.data.pairing import masks_beside
from bundle.data.set_files import MASK_FOLDERS, has_image_suffix, is_clip, is_picture, passed_over, walk
from bundle.dicom import other_object
from bundle.failures import named, reason
from bundle.files import CLIP_SUFFIXES, OutputFolder
from bundle.live.sources import spread_frames
from bundle.sinks.png import encode_png

logger = logging.getLogger(__name__)

_HELD, _SILENT = "held out", "-"
_FEWEST_LEVELS = 8
"""Gray levels of a thumbnail: masks, blank images and drawings have fewer."""


@dataclass
class _Found:
    """What a walk gives: items, their fingerprints, and how many files were passed over for which reason."""

    items: list[dict[str, Any]] = field(default_factory=list)
    prints: list[Fingerprint] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


def archive_images(
    top: str | Path,
    *,
    frames_dir: str | Path,
    manifest: str | Path | None = None,
    fold: int | None = None,
    frames: int = 12,
) -> list[dict[str, Any]]:
    """The images below a folder, for a training without labels.

    Pictures stay where they are; of DICOM files and videos, evenly spaced frames are written into ``frames_dir``, once.
    Left out are masks (by folder, name or number of gray levels), near-duplicates of an image before (frames of a still
    probe, copies), and images of a manifest's validation and test split, wherever they lie. The log counts them.

    Args:
        top: folder of pictures, DICOM files and videos in any depth.
        frames_dir: folder of the frames, made when absent.
        manifest, fold, frames: as of :func:`bundle.pretraining.images.images_to_learn_from`.

    Returns:
        Items of ``image`` (absolute path), ``dataset`` (the folder just below ``top``) and ``patient`` (the file).

    Raises:
        FileNotFoundError: when there is no such folder, or no image in it.
        ValueError: when the manifest is not valid.
    """
    if not Path(top).is_dir():
        raise FileNotFoundError(f"dataset_dir {top}: expected a folder with images, got none; correct --dataset_dir.")
    held, held_files = _held_out(manifest, fold) if manifest else ([], set())
    found = _read(Path(top), OutputFolder(frames_dir, option="--cache_dir"), frames=frames, leave=held_files)
    kept, copies = _thinned(found, held)
    kept_out = copies + found.passed.pop(_HELD, 0)
    passed = {**found.passed, "near-duplicates of others": len(found.items) - len(kept) - copies}
    if not kept:
        told = _told({**passed, "of validation and test, or copies of them": kept_out}) or "no files"
        raise FileNotFoundError(f"dataset_dir {top}: expected images to learn from, got none ({told}).")
    logger.info(f"{len(kept)} images to learn from; passed over: {_told(passed) or 'none'}")
    if manifest:
        logger.info(f"{kept_out} images of validation and test, or near-duplicates of them, are kept out")
    return kept


def _told(passed: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in passed.items() if count)


def _held_out(manifest: str | Path, fold: int | None) -> tuple[list[Fingerprint], set[str]]:
    """Fingerprints and real paths of a manifest's validation and test images."""
    content = read_datalist(manifest, labels=False)
    parts = split_parts(content, split="train", fold=fold, name=str(manifest))
    root = os.path.normpath(os.path.join(os.path.realpath(Path(manifest).parent), content["root"]))
    items = zip(content["items"], parts, strict=True)
    paths = [os.path.join(root, item["image"]) for item, part in items if part != "train"]
    marks = []
    for path in tqdm(paths, desc="held-out images", unit="image", leave=False):
        seen = examine(({"image": path, "dataset": ""}, {}))
        if seen.mark is None:
            raise ValueError(f"{manifest}: expected held-out images that can be read, got {seen.fault}")
        marks.append(seen.mark)
    return marks, {os.path.realpath(path) for path in paths}


def _read(top: Path, output: OutputFolder, *, frames: int, leave: set[str]) -> _Found:
    """Every image below a folder with its fingerprint, and every frame that is taken of a clip."""
    found, broken = _Found(), []
    own = output.folder.resolve()  # frames of an earlier run are no images of their own
    files = [Path(path) for path in sorted(walk(top)[0]) if not Path(os.path.realpath(path)).is_relative_to(own)]
    masks = set(masks_beside(files))
    for path in tqdm(files, desc="reading images", unit="file", leave=False):
        if why := _why_not(path, top=top, masks=masks, leave=leave):
            if why != _SILENT:
                found.passed[why] += 1
            continue
        inner = path.relative_to(top)
        dataset = inner.parts[0] if len(inner.parts) > 1 else "images"
        item = {"dataset": dataset, "patient": inner.as_posix(), "organ": ""}
        try:
            for image in _images(path, output, frames=frames):
                seen = examine(({"image": image, "dataset": ""}, {}))
                if seen.mark is None:
                    raise ValueError(seen.fault)
                if len(np.unique(seen.mark.thumbnail)) < _FEWEST_LEVELS:
                    found.passed["masks or blank images"] += 1
                    continue
                found.items.append({"image": image, **item})
                found.prints.append(seen.mark)
        except FileExistsError:
            raise
        except Exception as error:  # whatever a file does to a decoder must not cost the others
            broken.append(f"{inner}: {reason(error).removeprefix(f'{path}: ')}")
    if broken:
        logger.warning(f"{len(broken)} files cannot be read: {named(broken)}")
        found.passed["that cannot be read"] = len(broken)
    return found


def _why_not(path: Path, *, top: Path, masks: set[Path], leave: set[str]) -> str:
    """Why a file is not read, ``_SILENT`` for what needs no word; "" for one that is."""
    if passed_over(path.name):
        return _SILENT
    if not path.is_file():  # a pipe would be waited for
        return "broken links, pipes and the like" if has_image_suffix(path.name) else _SILENT
    if os.path.realpath(path) in leave:
        return _HELD
    if path in masks or any(part.lower() in MASK_FOLDERS for part in path.relative_to(top).parts[:-1]):
        return "masks or blank images"
    if is_picture(path):
        return ""
    if not is_clip(path):
        return _SILENT
    dicom = not path.name.lower().endswith(CLIP_SUFFIXES)
    return "DICOM objects that are no images of ultrasound" if dicom and other_object(str(path)) else ""


def _images(path: Path, output: OutputFolder, *, frames: int) -> Iterator[str]:
    """Paths of the images that a file holds: itself, or its frames, which are written unless they are there."""
    if is_picture(path):
        yield str(path.resolve())
        return
    status = path.stat()
    told = os.fsencode(path.resolve()) + f"|{status.st_size}|{status.st_mtime_ns}|{frames}".encode()
    key = hashlib.sha256(told).hexdigest()[:20]
    listed, done = sorted(output.folder.glob(f"{key}_*.png")), output.folder / f"{key}.done"
    if not done.is_file() or done.read_text() != str(len(listed)):
        listed = [
            output.write(f"{key}_{n:03d}.png", encode_png(p)) for n, p in enumerate(spread_frames(str(path), frames))
        ]
        output.write(f"{key}.done", str(len(listed)).encode())
    yield from (str(file.resolve()) for file in listed)


def _thinned(found: _Found, held: Sequence[Fingerprint]) -> tuple[list[dict[str, Any]], int]:
    """The items that are near-duplicates of none before and of none that is held out; how many are of the latter."""
    pairs = near_duplicates(Fingerprints([*held, *found.prints]))
    gone: set[int] = set()
    copies = 0
    for one, other in sorted(pairs):
        if other >= len(held) and one not in gone and other not in gone:
            gone.add(other)
            copies += one < len(held)
    return [item for place, item in enumerate(found.items, start=len(held)) if place not in gone], copies
