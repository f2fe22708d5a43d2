# SPDX-License-Identifier: Apache-2.0
"""Whether the organs of the data can show the structures that the data has masks of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bundle.vocabulary import NEUTRAL_POSITION, UNKNOWN, check_prompted, organ_table

_ANY = {"", UNKNOWN, NEUTRAL_POSITION}
"""Positions that show every structure."""


def check_organs(
    used: Collection[tuple[str, str, bool]],
    organ_structures: Mapping[str, Sequence[str]],
    *,
    tables: Mapping[str, Mapping[str, Any]],
    positions: Sequence[str],
    structures: Sequence[str],
    name: str,
) -> None:
    """Refuses masks of what ``organ_structures`` lets no image show: it would be trained, and never predicted.

    A data set of several positions may label structures that only some of them show.

    Args:
        used: (data set, position, has a mask) of the items.
        organ_structures: position -> names of its structures; empty sets no limits.
        tables: data set -> ``labeled``, a bool per structure.
        positions: the position table.
        structures: names of the segmentation channels, background first.
        name: of the manifest, for messages.

    Raises:
        ValueError: with the position and the line to add.
    """
    organ_table(organ_structures, positions=positions, structures=structures)
    if not organ_structures:
        return
    for dataset in sorted({dataset for dataset, _, masked in used if masked}):
        labeled = [s for s, known in zip(structures, tables[dataset]["labeled"], strict=True) if known][1:]
        places = sorted({place for other, place, masked in used if other == dataset and masked})
        _check_set(places, labeled, organ_structures, where=f"{name}: dataset {dataset!r}")
    try:
        check_prompted({place for _, place, _ in used}, organ_structures, positions=positions, structures=structures)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_set(
    places: Sequence[str], labeled: Sequence[str], organ_structures: Mapping[str, Sequence[str]], *, where: str
) -> None:
    """Refuses positions of a data set with masks that have no entry, and structures that none of them shows."""
    unlisted = [place for place in places if place not in _ANY | set(organ_structures)]
    if unlisted and labeled:
        place = unlisted[0]
        raise ValueError(
            f"{where}: position {place!r} must have an entry in organ_structures, got none, but masks of {labeled}, "
            f"which would never be predicted; add '{place}: [{', '.join(labeled)}]' to organ_structures in the config, "
            f"or '{place}: []' if it shows none."
        )
    if _ANY & set(places):
        return
    shown = {structure for place in places for structure in organ_structures[place]}
    if missing := [structure for structure in labeled if structure not in shown]:
        entry = [*organ_structures[places[0]], *missing]
        raise ValueError(
            f"{where}: organ_structures must let one of its positions {places} show {missing}, of which it has masks, "
            f"got { ({place: list(organ_structures[place]) for place in places}) }; write '{places[0]}: "
            f"[{', '.join(entry)}]' there in the config."
        )
