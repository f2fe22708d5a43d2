# SPDX-License-Identifier: Apache-2.0
"""What is measured in a label map, as a record with units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bundle.geometry import Geometry, known_spacing
from bundle.measures import LENGTHS, box_of, depth, gestational_age, lengths, reaches_edge
from bundle.transforms.seeing.sector import skin_line

BIOMETRY = {"hc": "circumference", "bpd": "short_axis", "ofd": "long_axis"}
"""Head circumference, biparietal and occipitofrontal diameter of a fetal head: which length each is."""

AGES = ("weeks", "from_weeks", "to_weeks")

_LEGEND = {
    "long_axis_mm": "axis of the ellipse with the structure's second moments",
    "short_axis_mm": "its other axis",
    "circumference_mm": "of that ellipse (Ramanujan 1914, second approximation)",
    "width_mm": "extent along the rows",
    "height_mm": "extent along the columns, which is depth where the probe is at the top",
    "depth_mm": "from the top of the sector, which is the skin, down the column to the nearest point of the structure",
    "cut": "the structure reaches an edge of the image, so that the figures are of what is seen",
}


class Measures:
    """What is measured in a label map: areas, lengths of each structure in mm, and the biometry of a fetal head.

    Nothing is given in mm where the spacing is not known of all that the structure's mask lies in, and no age of a head
    that is cut off.

    Args:
        fetal_head: the structure whose ellipse is that of a fetal head's skull; None for none.
    """

    def __init__(self, fetal_head: str | None = None) -> None:
        self.fetal_head = fetal_head

    def blank(self, structures: Sequence[str]) -> dict[str, Any]:
        """The record without values."""
        empty = {**{f"{name}_mm": None for name in LENGTHS}, "depth_mm": None, "cut": None}
        record: dict[str, Any] = {
            "areas": {name: {"pixels": None, "mm2": None} for name in structures[1:]},
            "measures": {name: dict(empty) for name in structures[1:]},
        }
        if self.fetal_head in structures[1:]:
            record["fetal_head"] = {f"{name}_mm": None for name in BIOMETRY}
            record["fetal_head"] |= {f"gestational_age_{name}": None for name in AGES}
        return record

    def record(self, label_map: np.ndarray, structures: Sequence[str], place: Geometry) -> dict[str, Any]:
        """What was measured.

        ``areas``: structure -> pixels and mm2; ``measures``: structure -> lengths in mm and ``cut``; ``fetal_head``:
        HC, BPD and OFD in mm and the age in weeks.

        Args:
            label_map: (H, W) structure indices.
            structures: their names, background first.
            place: of the image.
        """
        record = self.blank(structures)
        counts = np.bincount(label_map.ravel(), minlength=len(structures)).tolist()
        skin = None
        for index, name in enumerate(structures[1:], start=1):
            count = counts[index]
            record["areas"][name] = {"pixels": count, "mm2": 0.0 if place.known and not count else None}
            if not count:
                continue
            mask = label_map == index
            record["measures"][name]["cut"] = cut = reaches_edge(mask)
            spacing = place.spacing_of(box_of(mask))
            if known_spacing(spacing) and (found := lengths(mask, spacing)):
                record["areas"][name]["mm2"] = round(count * spacing[0] * spacing[1], 4)
                record["measures"][name] |= {f"{key}_mm": round(value, 3) for key, value in found.items()}
                if place.picture is not None:
                    skin = skin_line(place.picture) if skin is None else skin
                    below = depth(mask, skin, spacing[0])
                    record["measures"][name]["depth_mm"] = None if below is None else round(below, 3)
                if name == self.fetal_head:
                    record["fetal_head"] |= self._head(found, cut)
        return record

    def _head(self, found: Mapping[str, float], cut: bool) -> dict[str, float | None]:
        head: dict[str, float | None] = {f"{name}_mm": round(found[length], 3) for name, length in BIOMETRY.items()}
        age = None if cut else gestational_age(found["circumference"])
        if age is not None:
            head |= {f"gestational_age_{name}": round(value, 2) for name, value in zip(AGES, age, strict=True)}
        return head

    def legend(self, structures: Sequence[str]) -> dict[str, Any]:
        """What explains the record."""
        legend: dict[str, Any] = {"measures": {"of": "largest connected part of a structure", **_LEGEND}}
        if self.fetal_head in structures[1:]:
            legend["fetal_head"] = {
                **{f"{name}_mm": f"{length} of {self.fetal_head}" for name, length in BIOMETRY.items()},
                "gestational_age_weeks": "from hc (Hadlock et al., Radiology 1984; 152:497), 14 to 42 weeks",
                "gestational_age_from_weeks": "two standard deviations below, same source",
                "gestational_age_to_weeks": "two standard deviations above",
            }
        return legend
