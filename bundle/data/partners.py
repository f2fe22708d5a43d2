# SPDX-License-Identifier: Apache-2.0
"""Which images of a set a list or a table of the user names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bundle.data.set_files import place_of, stem_of


class Partners:
    """The images of a set, to be found by path, else by name, each with or without suffix.

    Args:
        images: the files.
        roots: folders that hold them; a path may be relative to each, with or without folders such as ``imgs``.
    """

    def __init__(self, images: Iterable[Path], *roots: Path) -> None:
        self._roots = roots
        self._paths: dict[str, set[Path]] = {}
        self._names: dict[str, set[Path]] = {}
        for image in images:
            for place in (place_of(image, root) for root in roots):
                for key in (place, stem_of(place)):
                    self._paths.setdefault(key, set()).add(image)
                    self._names.setdefault(key.rpartition("/")[2], set()).add(image)

    def find(self, entry: str) -> list[Path]:
        """The images that ``entry`` names, in sorted order: several where their name is all that it tells."""
        for root in self._roots:
            path = root / entry.strip().replace("\\", "/")
            place = place_of(path, root) if path.is_relative_to(root) else ""
            if found := self._paths.get(place) or self._names.get(place):
                return sorted(found)
        return []
