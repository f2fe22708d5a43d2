# SPDX-License-Identifier: Apache-2.0
"""Data sets in which a file that cannot be read does not cost the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset, MetaTensor

from bundle.data.requests import add_prompts, name_items
from bundle.failures import reason
from bundle.vocabulary import NEUTRAL_POSITION, UNKNOWN, check_prompted

logger = logging.getLogger(__name__)


class TolerantDataset(Dataset):
    """Images of which one that fails comes as a black image without labels, with the reason in ``error``.

    Every item has the keys of the transform's result, ``place``, its index in the data set, and ``error``, which is ""
    where all went well. Black images pass through the same transforms, so that they collate and invert like the others.
    MONAI's ``Dataset`` stops instead.

    Args:
        data: items with ``image``, a path, and what the transforms need besides.
        transform: transforms, the first to touch ``image`` being ``LoadUltrasoundd``.
        image_size: side of the black image, in pixels.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any], *, image_size: int) -> None:
        super().__init__(data, transform)
        self.image_size = image_size

    def _transform(self, index: int) -> dict[str, Any]:
        item = dict(self.data[index])
        try:
            return {**self.transform(item), "place": index, "error": ""}
        except Exception as error:
            black = torch.zeros(3, self.image_size, self.image_size)
            item["image"] = MetaTensor(black, meta={"filename_or_obj": str(item["image"])})
            text = reason(error)
            for mask in _paths(item.get("label")):
                text = text.replace(mask, f"mask {Path(mask).name}")  # where it lies belongs in no table
            if "label" in item:
                item["label"] = []
            return {**self.transform(item), "place": index, "error": text}


def _paths(label: Any) -> list[str]:
    return [label] if isinstance(label, str) else [str(path) for path in label or ()]


class FolderDataset(TolerantDataset):
    """Images of a folder with their prompts, which need not all be readable.

    Args:
        data: items with ``image``, a path.
        transform: transforms, the first to touch ``image`` being ``LoadUltrasoundd``.
        dataset_dir: folder that names of results are relative to.
        output_dir: folder of the results; images in it are left out.
        positions: the position table.
        structures: names of the segmentation channels, background first.
        organ_structures: position -> names of its structures, which a prompted position needs.
        image_size: side of the black image, in pixels.
        prompts: CSV file with prompts per file, see :func:`bundle.data.requests.add_prompts`.
        position: position prompt of files without their own.
        nature: nature prompt of files without their own.
        task: task prompt of files without their own.

    Raises:
        ValueError: see :func:`bundle.data.requests.add_prompts` and :func:`bundle.vocabulary.check_prompted`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        *,
        dataset_dir: str,
        output_dir: str,
        positions: Sequence[str],
        image_size: int,
        structures: Sequence[str] = (),
        organ_structures: Mapping[str, Sequence[str]] | None = None,
        prompts: str | None = None,
        position: str = UNKNOWN,
        nature: str = UNKNOWN,
        task: str = UNKNOWN,
    ) -> None:
        named = name_items(data, dataset_dir=dataset_dir, output_dir=output_dir)
        defaults = {"position": position, "nature": nature, "task": task}
        items = add_prompts(named, positions=positions, defaults=defaults, prompts=prompts)
        if organ_structures is not None:
            prompted = {item["position"] for item in items}
            check_prompted(prompted, organ_structures, positions=positions, structures=structures)
            if organ_structures and (unlisted := prompted & set(positions) - {NEUTRAL_POSITION, *organ_structures}):
                logger.warning(
                    f"{sorted(unlisted)} have no entry in organ_structures: no structure is shown for them. If that is "
                    "meant, write an empty list: 'lung: []'."
                )
        super().__init__(items, transform, image_size=image_size)
