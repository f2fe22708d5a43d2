# SPDX-License-Identifier: Apache-2.0
"""Whether the organs of the data can show the structures that the data has masks of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bundle.vocabulary import ANY_POSITION, Organs


def check_organs(items: Iterable[Mapping[str, Any]], organs: Organs, *, name: str) -> None:
    """Refuses masks of what no organ of a data set shows: they would be trained, and never predicted.

    A data set of several positions may label structures that only some of them show.

    Args:
        items: of ``bundle.data.datalist.load_split``.
        organs: the network's table.
        name: of the manifest, for messages.

    Raises:
        ValueError: with the organ and the line to write.
    """
    places: dict[str, set[str]] = {}
    labeled: dict[str, set[int]] = {}
    for item in items:
        if item["label"]:
            places.setdefault(item["dataset"], set()).add(item["position"])
            labeled.setdefault(item["dataset"], set()).update(
                i for i, known in enumerate(item["labeled"]) if known and i
            )
    for dataset, found in sorted(places.items()):
        if found & set(ANY_POSITION):
            continue
        shown = {index for position in found for index in organs.shows(position)}
        if missing := sorted(labeled[dataset] - shown):
            position = min(found)
            entry = [*organs.table[position]["structures"], *(organs.structures[index] for index in missing)]
            raise ValueError(
                f"{name}: dataset {dataset!r}: organs must let one of its positions {sorted(found)} show"
                f" {[organs.structures[index] for index in missing]}, of which it has masks and which would never be"
                f" predicted; write '{position}: {{structures: [{', '.join(entry)}]}}' in organs in the config."
            )
