# SPDX-License-Identifier: Apache-2.0
"""The tables of one data set: structures by value in the mask, and classes by folder.

The user's word goes first, the set's own ``config.yaml`` and folder names second, what is known of public sets last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.data.known_sets import KNOWN, Known, SetOptions, option
from bundle.data.names import find_name, plain_name, same_names
from bundle.data.set_config import Label, read_config
from bundle.vocabulary import BACKGROUND

_NAMELESS = ("foreground", "fg", "object", "target", "mask", "roi")


def mask_entry(name: str, *, values: Mapping[int, str], options: SetOptions) -> dict[str, Any]:
    """What a manifest says of a data set's masks: ``mask_values``, and ``mask_threshold`` where the user gives one.

    Raises:
        ValueError: when a threshold does not fit the structures.
    """
    entry: dict[str, Any] = {"mask_values": {str(v): n for v, n in sorted({0: BACKGROUND, **values}.items())}}
    threshold = options.threshold.get(name)
    if threshold is not None:
        structures = [value for value, structure in values.items() if structure != BACKGROUND]
        if len(structures) != 1 or threshold > structures[0]:
            raise ValueError(
                f"--mask-threshold {name}={threshold}: expected one structure, of a value not below the threshold, got "
                f"{entry['mask_values']}; correct it, or leave it out."
            )
        entry["mask_threshold"] = threshold
    return entry


def structure_values(
    folder: Path, *, name: str, options: SetOptions, notices: list[str], faults: list[str]
) -> dict[int, str]:
    """Value in the mask -> structure. What the user has to say is added to ``faults``, what differs to ``notices``.

    Raises:
        ValueError: when ``config.yaml`` is not valid.
    """
    path, labels = read_config(folder)
    told, known = options.structures.get(name, {}), KNOWN.get(name, Known()).structures
    values: dict[int, str] = {}
    for label in labels:
        if plain_name(label.name) == BACKGROUND and label.value is None:
            continue
        if label.value is None:
            if not told:
                faults.append(
                    f"{path}: expected the value in the mask of {label.name!r}, as 'index:name:value', got none; write "
                    f"it, or add {option('structure', name, f'255:{label.name}')}."
                )
            continue
        values[label.value] = _structure(label, path=path, told=told, known=known, name=name, faults=faults)
    if values.get(0, BACKGROUND) != BACKGROUND:
        faults.append(f"{path}: expected value 0 to be {BACKGROUND}, got {values[0]!r}; save the masks inverted.")
    notices += [
        f"{name}: config.yaml calls value {value} in the masks {values[value]!r}, which is known as {structure!r}; "
        f"config.yaml counts, unless you add {option('structure', name, f'{value}:{structure}')}"
        for value, structure in known.items()
        if value in values and value not in told and plain_name(values[value]) != plain_name(structure)
    ]
    values = {0: BACKGROUND, **(values or known), **told}
    if len(values) < 2 and not labels:
        faults.append(
            f"{folder}: expected config.yaml with the lines 'index:name:value in the mask', got none; write it, or add "
            f"{option('structure', name, '255:NAME')}."
        )
    elif len(values) < 2 and not faults:
        faults.append(f"{path}: expected a structure beside the background, got none; add its line.")
    return values


def _structure(
    label: Label, *, path: Path, told: Mapping[int, str], known: Mapping[int, str], name: str, faults: list[str]
) -> str:
    """The name of a structure; one that any set could mean is replaced, or asked for."""
    if plain_name(label.name) == BACKGROUND:
        return BACKGROUND
    value = label.value or 0
    if plain_name(label.name) not in _NAMELESS:
        return label.name
    if value not in told and value not in known:
        faults.append(
            f"{path}: expected the name of a structure for value {value}, got {label.name!r}, which any set could "
            f"mean; add {option('structure', name, f'{value}:NAME')}."
        )
    return told.get(value, known.get(value, label.name))


def class_table(
    folder: Path, *, name: str, labels: Sequence[str], options: SetOptions, notices: list[str]
) -> tuple[list[str], dict[str, str]]:
    """The classes in order, and the class of every folder: numbered folders by index, others by name.

    Raises:
        ValueError: when ``config.yaml`` is not valid, or classes are not known; the message names the option to give.
    """
    _, rows = read_config(folder)
    told = dict(enumerate(options.classes.get(name, ())))
    own = {label.index: label.name for label in rows}
    known = dict(enumerate(KNOWN.get(name, Known()).classes))
    numbered = all(re.fullmatch("[0-9]+", label) for label in labels)
    if numbered and own and not told and known and list(map(plain_name, own.values())) != _plain(known):
        notices.append(
            f"{name}: config.yaml has the classes {list(own.values())}, which are known as {list(known.values())}; "
            "config.yaml counts"
        )
    if not numbered and not told and not own:
        joined = [find_name(label, list(known.values())) for label in labels]
        table = known if all(joined) else dict(enumerate(labels))
    else:
        table = told or own or known
    classes = _checked(table, folder=folder, name=name, labels=labels)
    found = {label: table.get(int(label)) if numbered else find_name(label, classes) for label in labels}
    of_folder = {label: found_name for label, found_name in found.items() if found_name is not None}
    if len(of_folder) < len(labels) or len(set(of_folder.values())) < len(labels):
        numbers = sorted(table)
        raise ValueError(
            f"{folder}: expected label folders {numbers[0]} to {numbers[-1]} or {classes}, got "
            f"{list(labels)}, each to be another class; give all names with {option('classes', name, 'A,B,...')}."
        )
    if len(classes) < 2:
        raise ValueError(
            f"{folder}: expected at least two classes, got {classes}; name those that have no image too, with "
            f"{option('classes', name, ','.join([*classes, 'OTHER']))}."
        )
    return classes, of_folder


def _plain(table: Mapping[int, str]) -> list[str]:
    return [plain_name(name) for name in table.values()]


def _checked(table: Mapping[int, str], *, folder: Path, name: str, labels: Sequence[str]) -> list[str]:
    """The names of a table of classes, all different."""
    if not table:
        raise ValueError(
            f"{folder}: expected the names of the classes {list(labels)}, got none; add "
            f"{option('classes', name, ','.join('NAME' + label for label in labels))}."
        )
    classes = list(table.values())
    if same := same_names(classes):
        raise ValueError(
            f"{folder}: expected classes of different names, got {same[0][0]!r} and {same[0][1]!r}; rename one, or "
            "merge their folders."
        )
    return classes
