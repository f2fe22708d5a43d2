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
from bundle.vocabulary import UNKNOWN, Organs

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
        read: puts an image in place of its path, where ``LoadUltrasoundd`` cannot read it; None: it reads all.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        *,
        image_size: int,
        read: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.image_size, self.read = image_size, read

    def _transform(self, index: int) -> dict[str, Any]:
        item = dict(self.data[index])
        try:
            return {**self.transform(self.read(item) if self.read else item), "place": index, "error": ""}
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
        organs: the network's table; a prompted organ of which it reports nothing is named in the log.
        organ_points: organ -> key points that the network knows of it.
        image_size: side of the black image, in pixels.
        prompts: CSV file with prompts per file, see :func:`bundle.data.requests.add_prompts`.
        position: position prompt of files without their own.
        nature: nature prompt of files without their own.
        task: task prompt of files without their own.
        read: see :class:`TolerantDataset`.

    Raises:
        ValueError: when all images are prompted with organs of which the network reports nothing; and as
            :func:`bundle.data.requests.add_prompts`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        *,
        dataset_dir: str,
        output_dir: str,
        organs: Organs,
        image_size: int,
        organ_points: Mapping[str, Sequence[str]] | None = None,
        prompts: str | None = None,
        position: str = UNKNOWN,
        nature: str = UNKNOWN,
        task: str = UNKNOWN,
        read: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        named = name_items(data, dataset_dir=dataset_dir, output_dir=output_dir)
        defaults = {"position": position, "nature": nature, "task": task}
        if empty := [name for name, value in defaults.items() if value == ""]:
            raise ValueError(f"{empty[0]} must be a value of its table, got an empty text; leave --{empty[0]} out.")
        items = add_prompts(named, positions=organs.positions, defaults=defaults, prompts=prompts)
        asked = [item["position"] for item in items]
        if text := organs.unanswered(asked, organ_points or ()):
            if all(organs.unanswered([position], organ_points or ()) for position in set(asked)):
                raise ValueError(f"position: {text}")
            logger.warning(text)
        super().__init__(items, transform, image_size=image_size, read=read)
