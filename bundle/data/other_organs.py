# SPDX-License-Identifier: Apache-2.0
"""Ultrasound of organs that no data set is of, and of phantoms: images, DICOM and clips of one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bundle.data.known_sets import LeftOut, PublicSet
from bundle.data.pairing import masks_beside
from bundle.data.set_files import MASK_FOLDERS, is_clip, is_picture, passed_over, walk
from bundle.data.written import write_picture
from bundle.failures import named, reason
from bundle.files import OutputFolder
from bundle.vocabulary import NO_ORGAN, UNKNOWN

DATASET = "OtherUltrasound"

FRAMES = 12
"""Of a clip, at most; evenly spaced."""


def other_organs(
    paths: Sequence[str], folder: Path, *, frames: Callable[[str, int], Iterator[np.ndarray]]
) -> PublicSet:
    """A data set of no organ: pictures where they lie, and frames of DICOM files and clips, written into a folder.

    Each file is one patient; near-duplicates are joined later.

    Args:
        paths: files, and folders of them in any depth.
        folder: of the frames, made when absent; only files of an earlier run are replaced.
        frames: (path, most) -> evenly spaced frames of a clip or DICOM file, uint8 (H, W) or (H, W, 3) RGB.

    Raises:
        FileNotFoundError: when a path is not there.
        FileExistsError: when a file that no earlier run wrote would be replaced.
        ValueError: when no file can be read.
    """
    output, items, left_out = OutputFolder(folder, option="--output"), [], []
    files, notices = _files(paths, folder)
    names = Counter[str]()
    for path in tqdm(files, desc="other organs", unit="file", leave=False):
        names[path.stem] += 1
        name = path.stem if names[path.stem] == 1 else f"{path.stem}_{names[path.stem]}"
        patient = {"dataset": DATASET, "patient": f"{DATASET}/{name}"}
        if is_picture(path):
            items.append({"image": str(path.resolve()), **patient})
            continue
        try:
            for index, pixels in enumerate(frames(str(path), FRAMES)):
                items.append({"image": write_picture(output, f"{name}_f{index:02d}", pixels), **patient})
        except FileExistsError:
            raise
        except (OSError, ValueError) as error:
            left_out.append(LeftOut(DATASET, reason(error)))
    if not items:
        raise ValueError(f"--other-organs: expected images or clips in {list(paths)}, got none that can be read.")
    entry: dict[str, Any] = {"position": UNKNOWN, "nature": UNKNOWN, "organ": NO_ORGAN, "source": "--other-organs"}
    return PublicSet(datasets={DATASET: entry}, items=items, left_out=left_out, notices=notices)


def _files(paths: Sequence[str], folder: Path) -> tuple[list[Path], list[str]]:
    """The pictures, DICOM files and clips; and a sentence on each kind of file that is passed over."""
    found: list[str] = []
    for path in paths:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: expected a file or folder of images or clips, got none; correct it.")
        found += sorted(walk(path)[0]) if Path(path).is_dir() else [path]
    files = [Path(path) for path in dict.fromkeys(found) if Path(path).is_file() and not passed_over(Path(path).name)]
    masks = {*masks_beside(files), *(file for file in files if file.parent.name.lower() in MASK_FOLDERS)}
    own = {file for file in files if file.resolve().is_relative_to(folder.resolve())}
    others = {file for file in files if not is_picture(file) and not is_clip(file)} - masks - own
    passed = {"masks": masks, "frames of an earlier run": own, "neither images nor clips": others}
    notices = [
        f"--other-organs: {len(some)} files are {why}: {named(sorted(some))}" for why, some in passed.items() if some
    ]
    return [file for file in files if file not in masks | own | others], notices
