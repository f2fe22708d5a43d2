# SPDX-License-Identifier: Apache-2.0
"""The spacing of images whose files do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from bundle.geometry import UNKNOWN_SPACING, known_spacing
from bundle.transforms.readers.raw import SPACING_RANGE, believed

BY_USER = "user"
"""What results name as the source of such a spacing."""


SHOWN = 80
"""Characters of a wrong value in an error."""


def told_spacing(spacing: Any, *, option: str = "--spacing") -> tuple[float, float]:
    """Row and column spacing in mm of an option: one number for both, or two; nan where it is None.

    Args:
        spacing: what the user gives.
        option: how it is called, for the message.

    Raises:
        ValueError: when it is something else, or no distance of pixels that is believed.
    """
    if spacing is None:
        return UNKNOWN_SPACING
    values: list[Any] = list(spacing) if isinstance(spacing, (list, tuple)) else [spacing]
    if len(values) in (1, 2) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        told, notes = believed(float(values[0]), float(values[-1]))
        if not notes:
            return told
    least, most = SPACING_RANGE
    shown = text if len(text := repr(spacing)) <= SHOWN else f"{text[:SHOWN]}..."
    raise ValueError(
        f"spacing must be the mm of a pixel, {least:g} to {most:g}, or [row, column], got {shown}; correct {option}."
    )


class AssumeSpacingd(MapTransform):
    """Gives an image that was loaded without a spacing the user's, in ``item["spacing"]`` and meta.

    MONAI's ``Spacingd`` resamples; it does not fill in.

    Args:
        keys: of the image, of ``LoadUltrasoundd``.
        spacing: mm of rows and columns, or [row, column]; None changes nothing.

    Raises:
        ValueError: when it is no distance of pixels.
    """

    def __init__(self, keys: KeysCollection = "image", *, spacing: float | Sequence[float] | None = None) -> None:
        super().__init__(keys)
        self.spacing = told_spacing(spacing)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with a spacing, where one is told."""
        item = dict(data)
        for key in self.key_iterator(item):
            meta = item[key].meta
            if known_spacing(self.spacing) and not known_spacing(meta["spacing"]):
                meta["spacing"], meta["spacing_source"] = self.spacing, BY_USER
                item["spacing"] = list(self.spacing)
        return item
