# SPDX-License-Identifier: Apache-2.0
"""Labels that clients saved on a MONAI Label server: checked one by one, understood, and a share of them kept aside.

The server gives image and label files alone, cut in two by the client's ``val_split``. Items of a manifest, which have
more keys, pass through unchanged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist

from bundle.transforms.readers import image_digest

logger = logging.getLogger(__name__)

WHITE = (255, 65535)
"""Values that mean "here" in a mask of one structure, of 8 and 16 bits."""

DATASTORE = "datastore_v2.json"
"""MONAI Label's table of a folder of studies; the labels lie in labels/final below it."""

Item = dict[str, Any]

NONE: Item = {"image": "none", "label": "none"}
"""Stands where no label was saved: the training's parts are made before it says so."""


class Reader(Protocol):
    """What reads labels as the training does: ``bundle.transforms.saved_labels.SavedLabelReader``."""

    structures: list[str]

    def values(self, path: str) -> set[int]:
        """The values in a label file; raises when it cannot be read."""

    def check(self, item: Mapping[str, Any]) -> None:
        """Raises when image and label cannot be read or do not fit together."""


@dataclass(frozen=True)
class Labels:
    """What a training uses.

    Attributes:
        train: items to train on; where no saved label can be used, one that cannot.
        aside: saved labels that no training sees; the weights before and after it are compared on them.
        saved: whether the items are saved labels; False: of a manifest.
        validated: whether the validation items are the bundle's own, to choose the best epoch by.
        samples_per_epoch: draws of an epoch; None: as many as there are training items.
        left_out: per label that cannot be used, what is wrong and what it should be.
        notes: what was assumed of labels.
        digest: hash of all usable labels, their images and what was made of them; "" where there is none.
    """

    train: Sequence[Item]
    aside: Sequence[Item] = ()
    saved: bool = False
    validated: bool = True
    samples_per_epoch: int | None = None
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digest: str = ""

    def summary(self) -> str:
        """How many labels there are for what, in a sentence."""
        names = ", ".join(Path(item["image"]).name for item in self.aside[:10])
        more = f" and {len(self.aside) - 10} more" if len(self.aside) > 10 else ""
        count = len(self.train) if self.digest else 0
        return (
            f"saved labels: {count} to train on, {len(self.aside)} kept aside to compare weights on"
            f"{f' ({names}{more})' if names else ''}, {len(self.left_out)} left out"
        )

    def log(self) -> None:
        """A line on what there is, on each assumption, and on each label that cannot be used."""
        for line in (self.summary(), *self.notes):
            logger.info(line)
        for line in self.left_out:
            logger.warning(f"label left out: {line}")


def divide(
    train: Sequence[Item],
    val: Sequence[Item],
    *,
    reader: Reader,
    share: float,
    steps_per_epoch: int,
    batch_size: int,
    samples_per_epoch: int | None,
) -> Labels:
    """Items for training and for the comparison of weights, out of what the server or the manifest gives.

    Saved labels that cannot be used are left out, each with a line in the log. A share of the others is kept aside: by
    a hash of the image's name, so that a label stays on its side from training to training, whatever ``val_split`` is.

    Args:
        train: items; saved labels have the keys ``image`` and ``label`` alone, each a path.
        val: likewise; saved labels among them are trained on or kept aside like the others.
        reader: reads labels as the training does.
        share: of the saved labels that is kept aside, in (0, 1); of 2 labels or more at least one, at most half.
        steps_per_epoch: optimizer steps of an epoch on saved labels.
        batch_size: samples of a step.
        samples_per_epoch: draws of an epoch that were asked for; None: by ``steps_per_epoch`` or the number of items.

    Raises:
        ValueError: when ``share`` is out of its range.
    """
    if not _is_saved(train):
        return Labels(train, samples_per_epoch=samples_per_epoch)
    draws = samples_per_epoch or steps_per_epoch * batch_size
    labels = _divided(train, val, reader=reader, share=share, draws=draws)
    if idist.get_rank() == 0:
        labels.log()
    return labels


def _divided(train: Sequence[Item], val: Sequence[Item], *, reader: Reader, share: float, draws: int) -> Labels:
    """See :func:`divide`; ``draws`` are those of an epoch."""
    own_validation = len(val) > 0 and not _is_saved(val)
    given = {item["image"]: item for item in (*train, *(() if own_validation else val))}
    usable, left_out, notes = _checked(list(given.values()), reader)
    names = aside_names([Path(item["image"]).name for item in usable], share)
    return Labels(
        train=[item for item in usable if Path(item["image"]).name not in names] or [NONE],
        aside=[item for item in usable if Path(item["image"]).name in names],
        saved=True,
        validated=own_validation,
        samples_per_epoch=draws,
        left_out=left_out,
        notes=notes,
        digest=_digest(usable, left_out) if usable else "",
    )


def aside_names(names: Sequence[str], share: float) -> set[str]:
    """Names that are kept aside: those with a hash in the first ``share`` of all hashes; of 2 or more at least one.

    Args:
        names: of the images.
        share: in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"labels_aside must be a share between 0 and 1, got {share}; correct it.")
    hashes = {name: int(hashlib.sha256(os.fsencode(name)).hexdigest()[:12], 16) / 16**12 for name in names}
    ordered = sorted(hashes, key=hashes.__getitem__)
    below = sum(value < share for value in hashes.values())
    return set(ordered[: min(max(1, below), len(ordered) // 2)])


def _is_saved(items: Sequence[Item]) -> bool:
    """Whether items came from MONAI Label: with image and label, and nothing else."""
    return isinstance(items, list) and all(set(item) == {"image", "label"} for item in items[:1])


def _checked(items: Sequence[Item], reader: Reader) -> tuple[list[Item], list[str], list[str]]:
    """Items that can be used, with their table of values; the lines on the others; and what was assumed."""
    usable: list[Item] = []
    white: list[tuple[Item, int, set[int]]] = []
    left_out: list[str] = []
    shown: set[int] = set()
    label_info = _label_info(items)
    for item in items:
        try:
            values = reader.values(item["label"]) - {0}
            named = _named(label_info.get(item["label"]), values, reader.structures, item["label"])
            table = {**{i: i for i in range(len(reader.structures))}, **named, 0: 0}
            if len(values) == 1 and not values <= set(table) and values <= set(WHITE):
                white.append((item, values.pop(), set(named.values()) - {0}))
                continue
            if strange := sorted(values - set(table)):
                raise ValueError(_wrong_values(item["label"], strange, reader.structures))
            item = {**item, "mask_values": table}
            reader.check(item)
            usable.append(item)
            shown |= {table[value] for value in values}
        except Exception as error:  # whatever a file does to a reader, the other labels are trained on
            left_out.append(_one_line(error, item))
    understood, notes = _white(white, shown, reader, left_out)
    order = {item["image"]: place for place, item in enumerate(items)}
    return sorted(usable + understood, key=lambda item: order[item["image"]]), left_out, notes


def _white(
    white: Sequence[tuple[Item, int, set[int]]], shown: set[int], reader: Reader, left_out: list[str]
) -> tuple[list[Item], list[str]]:
    """Masks of 0 and 255 with the structure that they show: the one named with the label, else the only one around."""
    usable: list[Item] = []
    taken: dict[tuple[str, str], list[str]] = {}
    shown = shown | {min(named) for _, _, named in white if len(named) == 1}
    for item, value, named in white:
        found, why = (named, "which was named with them") if len(named) == 1 else (shown, "which the other labels show")
        if not found:
            found, why = {1}, "the network's first structure, as nothing says another"
        try:
            if len(found) > 1 or len(reader.structures) < 2:
                raise ValueError(_wrong_values(item["label"], [value], reader.structures))
            index = min(found)
            item = {**item, "mask_values": {0: 0, value: index}}
            reader.check(item)
            usable.append(item)
            taken.setdefault((reader.structures[index], why), []).append(Path(item["image"]).name)
        except Exception as error:
            left_out.append(_one_line(error, item))
    notes = [
        f"labels of 0 and 255 are taken for {structure}, {why} ({len(names)}): {', '.join(names[:5])}"
        f"{' and others' if len(names) > 5 else ''}"
        for (structure, why), names in taken.items()
    ]
    return usable, notes


def _label_info(items: Sequence[Item]) -> dict[str, Any]:
    """Label file -> the names that its client sent along (``label_info``), from MONAI Label's table of the studies."""
    found: dict[str, Any] = {}
    for folder in sorted({Path(item["label"]).parent for item in items}):
        try:
            table = json.loads((folder.parents[1] / DATASTORE).read_text(encoding="utf-8"))
            for name, study in table["objects"].items():
                saved = study["labels"].get(folder.name, {})
                found[str(folder / f"{name}{saved.get('ext', '')}")] = saved.get("info", {}).get("label_info")
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            continue  # labels of another store: their values alone tell
    return found


def _named(label_info: Any, values: set[int], structures: Sequence[str], path: str) -> dict[int, int]:
    """Value -> structure index, as far as the client named its values.

    3D Slicer numbers segments in their order, so that after a segment was removed its names alone are right.

    Raises:
        ValueError: when a value of the mask has the name of no structure of the network.
    """
    indices = {name.lower(): index for index, name in enumerate(structures)}
    named = {
        entry["idx"]: entry["name"].strip()
        for entry in (label_info if isinstance(label_info, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("idx"), int)
        if isinstance(entry.get("name"), str) and entry["name"].strip()
    }
    known = {value: indices[name.lower()] for value, name in named.items() if name.lower() in indices}
    strange = {value: name for value, name in named.items() if value not in known}
    if strange and not known and values <= set(WHITE):  # a mask of one structure, whose value is not the named one
        strange = dict.fromkeys(values, next(iter(strange.values())))
    if wrong := sorted(values & set(strange)):
        got = ", ".join(f"{strange[value][:80]} for value {value}" for value in wrong[:10])
        raise ValueError(
            f"{path}: names of label values (label_info) must be {', '.join(structures[1:])}, got {got}; save it with"
            " one of these names, or without names for its values to count."
        )
    return known


def _wrong_values(path: str, values: Sequence[int], structures: Sequence[str]) -> str:
    expected = ", ".join(f"{index} {name}" for index, name in enumerate(structures))
    got = ", ".join(map(str, values[:10])) + (f" and {len(values) - 10} more" if len(values) > 10 else "")
    return f"{path}: label values must be {expected}, got {got}; save it with these values, as PNG, NIfTI or NRRD."


def _one_line(error: Exception, item: Item) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if item["label"] in text or item["image"] in text else f"{item['label']}: {text}"


def _digest(usable: Sequence[Item], left_out: Sequence[str]) -> str:
    """Hash of labels, images and tables of values, in any order."""
    parts = sorted(
        json.dumps(
            [item["image"], *map(image_digest, (item["image"], item["label"])), item["mask_values"]], sort_keys=True
        )
        for item in usable
    )
    return hashlib.sha256(json.dumps([parts, sorted(left_out)]).encode()).hexdigest()
