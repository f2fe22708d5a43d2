# SPDX-License-Identifier: Apache-2.0
"""A list of items that loader processes share without copying it."""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class PackedItems(Sequence[dict[str, Any]]):
    """Items of equal keys and plain values, kept as bytes; ``items[i]`` is made anew, so that changes to it are lost.

    Loader processes share the memory of the process that starts them until it is written to, and to look at a Python
    object is to write to its reference count: each would copy the whole list of dictionaries in time. These bytes hold
    two objects, whatever the number of items.
    """

    def __init__(self) -> None:
        self._keys: tuple[str, ...] = ()
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, item: Mapping[str, Any]) -> None:
        """Add an item.

        Raises:
            ValueError: when its keys are not those of the first.
        """
        keys = tuple(item)
        if len(self) and keys != self._keys:
            raise ValueError(f"keys of all items must be equal, {list(self._keys)} expected, got {list(keys)}.")
        self._keys = keys
        self._bytes += marshal.dumps(tuple(item.values()))
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        with memoryview(self._bytes)[self._ends[place] : self._ends[place + 1]] as values:
            return dict(zip(self._keys, marshal.loads(values), strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))
