# SPDX-License-Identifier: Apache-2.0
"""What a label holds that a client saved, read as the training reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bundle.transforms.loading import LoadMaskd, LoadUltrasoundd, _stored_mask
from bundle.transforms.readers import read_file


class SavedLabelReader:
    """Reads a saved label and its image with the training's own transforms.

    Args:
        structures: names of the segmentation channels, background first.
    """

    def __init__(self, structures: Sequence[str]) -> None:
        self.structures = list(structures)
        self.load_image = LoadUltrasoundd("image")
        self.load_mask = LoadMaskd("label", num_structures=len(structures))

    def values(self, path: str) -> set[int]:
        """The values in a label file.

        Raises:
            OSError, ValueError: when it cannot be read or holds colors or fractions; the file is named.
        """
        return {int(value) for value in np.unique(_stored_mask(read_file(path, as_mask=True), path, {}))}

    def check(self, item: Mapping[str, Any]) -> None:
        """Reads image and label of an item with ``image``, ``label`` and ``mask_values``, and forgets them.

        Raises:
            OSError, ValueError: when one cannot be read, or they do not fit together; the file is named.
        """
        loaded = self.load_image(item)
        if loaded["image"].meta["turned"]:
            raise ValueError(
                f"{item['image']}: image must be stored upright, got an EXIF orientation, which clients do not follow: "
                "the label lies elsewhere; save the image turned and label it again."
            )
        self.load_mask(loaded)
