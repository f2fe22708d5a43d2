# SPDX-License-Identifier: Apache-2.0
"""A set's own split: ``train.txt``, ``val.txt`` and ``test.txt``, with the name of an image a line."""

from __future__ import annotations

from pathlib import Path

from bundle.data.known_sets import LeftOut, PublicSet
from bundle.data.partners import Partners
from bundle.data.set_config import text_lines
from bundle.data.splits import SPLITS


def apply_given(folder: Path, part: PublicSet, *, name: str) -> None:
    """Set ``split`` from the set's own lists; images that are in no list are left out.

    Args:
        folder: of the set, with the lists.
        part: what was read of it; changed.
        name: of the set.

    Raises:
        ValueError: when an image is in two lists.
    """
    lists = {split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()}
    if not lists:
        part.notices.append(f"{folder}: no train.txt, val.txt or test.txt, so it is split like the others")
        return
    items = {Path(item["image"]): item for item in part.items}
    partners = Partners(items, folder)
    absent = 0
    for split, path in lists.items():
        for _, line in text_lines(path):
            if not line.strip():
                continue
            found = [items[image] for image in partners.find(line)]
            absent += not found
            for item in found:
                if item.setdefault("split", split) != split:
                    raise ValueError(
                        f"{path}: expected images that are in no other list, got {line!r}, which {item['split']}.txt "
                        "names too; remove one of the lines, or leave out --given-splits."
                    )
    unlisted = [item for item in part.items if "split" not in item]
    part.items = [item for item in part.items if "split" in item]
    if absent:
        part.notices.append(f"{folder}: its lists name {absent} images that are not there, or were left out")
    if unlisted:
        reason = f"{folder}: {len(unlisted)} images are in none of its lists, the first {unlisted[0]['image']}"
        part.left_out.append(LeftOut(name, reason, len(unlisted)))
