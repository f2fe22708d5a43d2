# SPDX-License-Identifier: Apache-2.0
"""Item dictionaries of equal keys: what a loader, a sampler and a collate function can rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Transform

from bundle.vocabulary import UNKNOWN


def add_note(image: MetaTensor, note: str) -> None:
    """Adds a sentence on an image, for the tables: what was assumed of the file, or speaks against its result.

    Sentences stand in ``image.meta["notes"]``, one text, joined by "; ".
    """
    before = image.meta.get("notes", "")
    image.meta["notes"] = f"{before}; {note}" if before else note


class ItemDefaultsd(Transform):
    """Gives every item the same keys, so that items made by hand or by MONAI Label (image and label only) train too.

    A mask that comes without a table of values is taken to hold structure indices, and to label every structure.
    MONAI has no transform that fills absent keys.

    Args:
        structures: names of the segmentation channels, background first.
        extra: keys that tasks add; None where an item has none.
    """

    def __init__(self, structures: Sequence[str], extra: Sequence[str] = ()) -> None:
        self.num_structures, self.extra = len(structures), list(extra)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with every key."""
        label = data.get("label") or []
        label = [label] if isinstance(label, str) else list(label)
        item: dict[str, Any] = {
            "label": label,
            "mask_values": {},
            "mask_kind": "filled",
            "mask_scaled": False,
            "mask_threshold": 0,
            "labeled": [bool(label)] * self.num_structures,
            "classes": {},
            "dataset": UNKNOWN,
            "patient": str(data["image"]),
            "group": str(data["image"]),
            "position": UNKNOWN,
            "nature": UNKNOWN,
            "task": UNKNOWN,
            "type": UNKNOWN,
            "spacing": [float("nan"), float("nan")],
            "item": str(data["image"]),
            **dict.fromkeys(self.extra),
        }
        return {**item, **data, "label": label}
