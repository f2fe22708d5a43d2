# SPDX-License-Identifier: Apache-2.0
"""ACR TI-RADS of a thyroid nodule: points, level and advice, from the features that a reader coded.

Reference: F. N. Tessler et al., ACR Thyroid Imaging, Reporting and Data System (TI-RADS): White Paper of the ACR
TI-RADS Committee, J. Am. Coll. Radiol. 14, 2017, 587-595, figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

POINTS: dict[str, dict[str, int]] = {
    "composition": {"cystic": 0, "spongiform": 0, "mixed": 1, "solid": 2, "undetermined": 2},
    "echogenicity": {
        "anechoic": 0, "hyperechoic": 1, "isoechoic": 1, "undetermined": 1, "hypoechoic": 2, "very hypoechoic": 3,
    },
    "shape": {"wider than tall": 0, "taller than wide": 3},
    "margin": {
        "smooth": 0, "ill-defined": 0, "undetermined": 0, "lobulated": 2, "irregular": 2,
        "extrathyroidal extension": 3,
    },
    "foci": {
        "none": 0, "comet-tail": 0, "macrocalcifications": 1, "peripheral calcifications": 2, "punctate": 3,
    },
}  # fmt: skip
"""Feature -> what may be seen -> points. Of the echogenic foci all that are seen count, of the others one."""

WITHOUT_FURTHER_POINTS = ("cystic", "spongiform")
"""Compositions of nodules that are benign whatever else is seen."""

LEVELS = ((0, 1), (2, 2), (3, 3), (6, 4), (math.inf, 5))
"""Most points -> level TR1 to TR5."""

NAMES = {
    1: "benign", 2: "not suspicious", 3: "mildly suspicious", 4: "moderately suspicious", 5: "highly suspicious",
}  # fmt: skip

SIZES_MM = {3: (15.0, 25.0), 4: (10.0, 15.0), 5: (5.0, 10.0)}
"""Level -> largest diameter from which follow-up, and from which fine-needle aspiration is advised."""


@dataclass(frozen=True)
class TiRads:
    """What the features tell.

    Attributes:
        points: sum.
        level: 1 to 5.
        advice: by the size; "" where that is not known.
    """

    points: int
    level: int
    advice: str

    @property
    def name(self) -> str:
        """Such as "TR4, moderately suspicious"."""
        return f"TR{self.level}, {NAMES[self.level]}"


def tirads(features: Mapping[str, str | Sequence[str]], diameter_mm: float | None = None) -> TiRads:
    """Points, level and advice.

    Args:
        features: each of ``POINTS`` -> what is seen; several foci as a list. Of cystic and spongiform nodules the
            composition alone is needed.
        diameter_mm: largest one; None: not known.

    Raises:
        ValueError: when a feature is missing or not known, or the diameter is none.
    """
    if unknown := sorted(set(features) - set(POINTS)):
        raise ValueError(f"features must be some of {', '.join(POINTS)}, got {unknown[0]!r}; correct it.")
    composition = _one(features, "composition")
    points = POINTS["composition"][composition]
    if composition not in WITHOUT_FURTHER_POINTS:
        points += sum(POINTS[name][_one(features, name)] for name in ("echogenicity", "shape", "margin"))
        points += sum(POINTS["foci"][focus] for focus in _foci(features))
        if points < 2:
            raise ValueError("echogenicity of a mixed nodule must be that of its solid part, got anechoic; correct it.")
    level = next(level for most, level in LEVELS if points <= most)
    return TiRads(points, level, _advice(level, diameter_mm))


def _advice(level: int, diameter_mm: float | None) -> str:
    if diameter_mm is not None and not 0 < diameter_mm < 200:
        raise ValueError(f"diameter must be above 0 and below 200 mm, got {diameter_mm:g}; give it in mm.")
    if level not in SIZES_MM:
        return "no fine-needle aspiration"
    if diameter_mm is None:
        return ""
    follow, aspirate = SIZES_MM[level]
    if diameter_mm >= aspirate:
        return "fine-needle aspiration"
    return "follow-up" if diameter_mm >= follow else "neither aspiration nor follow-up"


def _one(features: Mapping[str, str | Sequence[str]], name: str) -> str:
    seen = features.get(name) or ""
    if not isinstance(seen, str) or seen not in POINTS[name]:
        raise ValueError(f"{name} must be one of {', '.join(POINTS[name])}, got {seen or 'none'!r}; correct it.")
    return seen


def _foci(features: Mapping[str, str | Sequence[str]]) -> list[str]:
    """All that are seen; none and comet tails stand alone or add nothing."""
    given = features.get("foci") or ()
    seen = list(dict.fromkeys([given] if isinstance(given, str) else given))
    if wrong := [focus for focus in seen if focus not in POINTS["foci"]]:
        raise ValueError(f"foci must be some of {', '.join(POINTS['foci'])}, got {wrong[0]!r}; correct it.")
    if not seen or ("none" in seen and len(seen) > 1):
        raise ValueError(f"foci must be none, or some of the others, got {', '.join(seen) or 'nothing'}; correct it.")
    return seen
