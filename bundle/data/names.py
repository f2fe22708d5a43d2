# SPDX-License-Identifier: Apache-2.0
"""Names that mean the same: classes, structures and positions of a data set, and those of the network."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def plain_name(name: str) -> str:
    """A name without case, spaces, underscores, hyphens and Unicode forms: ``COVID-19`` and ``covid_19`` are one."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_\-\u2010-\u2015\u2212]+", "", folded) or name


def find_name(name: str, table: Sequence[str]) -> str | None:
    """The entry of ``table`` that ``name`` means: the same text, else the only one of the same plain name."""
    if name in table:
        return name
    same = [entry for entry in table if plain_name(entry) == plain_name(name)]
    return same[0] if len(same) == 1 else None


def same_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that mean the same, each later one with the first of its kind."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(plain_name(name), name), name) for name in names]
    return [(a, b) for i, (a, b) in enumerate(pairs) if a != b or names.index(b) != i]
