# SPDX-License-Identifier: Apache-2.0
"""Ultrasound of organs that no data set is of, and of phantoms: images, DICOM and clips of one's own."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from bundle.data.known_sets import LeftOut, PublicSet
from bundle.data.set_files import walk
from bundle.failures import reason
from bundle.files import DICOM_SUFFIXES, IMAGE_SUFFIXES, OutputFolder
from bundle.vocabulary import NO_ORGAN, UNKNOWN

logger = logging.getLogger(__name__)

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
    files, names = _files(paths), Counter[str]()
    for number, path in enumerate(tqdm(files, desc="other organs", unit="file", leave=False)):
        names[path.stem] += 1
        name = path.stem if names[path.stem] == 1 else f"{path.stem}_{names[path.stem]}"
        patient = {"dataset": DATASET, "patient": f"{DATASET}/{name}"}
        if path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.lower().endswith(DICOM_SUFFIXES):
            items.append({"image": str(path.resolve()), **patient})
            continue
        try:
            for index, pixels in enumerate(frames(str(path), FRAMES)):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "png")
                written = output.write(f"{number:04d}_{name}_f{index:02d}.png", file.getvalue())
                items.append({"image": str(written.resolve()), **patient})
        except FileExistsError:
            raise
        except (OSError, ValueError) as error:
            left_out.append(LeftOut(DATASET, reason(error)))
    if not items:
        raise ValueError(f"--other-organs: expected images or clips in {list(paths)}, got none that can be read.")
    entry: dict[str, Any] = {"position": UNKNOWN, "nature": UNKNOWN, "organ": NO_ORGAN, "source": "--other-organs"}
    return PublicSet(datasets={DATASET: entry}, items=items, left_out=left_out)


def _files(paths: Sequence[str]) -> list[Path]:
    found: list[str] = []
    for path in paths:
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path}: expected a file or folder of images or clips, got none; correct the path."
            )
        found += sorted(walk(path)[0]) if Path(path).is_dir() else [path]
    return [Path(path) for path in dict.fromkeys(found) if not Path(path).name.startswith(".")]
