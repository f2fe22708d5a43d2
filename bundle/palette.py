# SPDX-License-Identifier: Apache-2.0
"""Colors of structures: one table for overlays, tables, reports and the live view."""

from __future__ import annotations

COLORS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240))
"""RGB of structures 1, 2 ...; they repeat when there are more structures."""

FILL = 0.25
"""Opacity of a structure's inside; its contour is opaque."""


def color(structure: int) -> tuple[int, int, int]:
    """RGB of a structure's index, 1 or more."""
    return COLORS[(structure - 1) % len(COLORS)]


def hex_color(structure: int) -> str:
    """The same as ``#rrggbb``."""
    return "#" + bytes(color(structure)).hex()
