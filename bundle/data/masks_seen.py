# SPDX-License-Identifier: Apache-2.0
"""What the masks of a data set were seen to show, and what the user should know of it; and classes that are masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bundle.data.examine import Examined
from bundle.vocabulary import BACKGROUND


@dataclass
class Masks:
    """Of a data set: images with masks, those with masks of another size, or full; and the structures that masks show.

    And its classes: images of each, those that look like masks themselves, and the first of these.
    """

    count: int = 0
    scaled: int = 0
    full: int = 0
    shown: set[str] = field(default_factory=set)
    of_class: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    first_drawn: dict[str, str] = field(default_factory=dict)

    def add(self, item: Mapping[str, Any], seen: Examined) -> None:
        """Count an item of the manifest."""
        self.count += "label" in item
        self.scaled += seen.scaled
        self.full += seen.full
        self.shown |= seen.shown
        if "class" in item:
            self.of_class[item["class"]] += 1
            self.drawn[item["class"]] += seen.drawn
            if seen.drawn:
                self.first_drawn.setdefault(item["class"], item["image"])

    def no_class(self) -> str:
        """The first class of whose images so many look like masks that each may be that of another; "" for none."""
        return next((name for name, count in self.of_class.items() if self.drawn[name] > 0.4 * count), "")


def mask_notices(seen: Mapping[str, Masks], datasets: Mapping[str, Any]) -> list[str]:
    """A sentence per data set whose masks are scaled, all empty or all full, or lack a structure of its table.

    Or whose classes have images that look like masks.
    """
    notices = []
    for name, masks in seen.items():
        absent = sorted(set(datasets[name].get("mask_values", {}).values()) - {BACKGROUND} - masks.shown)
        if masks.first_drawn and not masks.no_class():
            notices.append(
                f"{name}: {sum(masks.drawn.values())} images of its classes look like masks or are blank, the first "
                f"{next(iter(masks.first_drawn.values()))}; remove them where that is so"
            )
        if masks.scaled:
            notices.append(
                f"{name}: {masks.scaled} masks have another size than their image, of the same proportions; they are "
                "scaled when read"
            )
        if masks.count and not masks.shown:
            notices.append(
                f"{name}: all {masks.count} masks are empty, its images only teach where no {' or '.join(absent)} is; "
                "correct the masks where that is not meant"
            )
        if masks.count and masks.full == masks.count:
            notices.append(
                f"{name}: all {masks.count} masks are full, every pixel is {' or '.join(sorted(masks.shown))}; correct "
                "the masks where that is not meant, or the values of --structure or config.yaml"
            )
        if masks.shown and absent:
            notices.append(f"{name}: none of its {masks.count} masks shows {' or '.join(absent)}")
    return notices
