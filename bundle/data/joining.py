# SPDX-License-Identifier: Apache-2.0
"""Joins a manifest's names with the network's: structures, label sets with their classes, positions.

Names join by name, whatever their case, spaces, underscores and hyphens; by index only where the user says so and no
name tells.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bundle.data.names import find_name, plain_name
from bundle.described import harmless
from bundle.failures import named
from bundle.vocabulary import BACKGROUND, UNKNOWN, Organs

logger = logging.getLogger(__name__)


def join_tables(
    manifest: Mapping[str, Any],
    *,
    name: str,
    organs: Organs,
    heads: Mapping[str, str | None],
    merge_structures: bool,
) -> dict[str, dict[str, Any]]:
    """Per data set what its items have in common.

    Args:
        manifest: the decoded manifest.
        name: its file, for messages.
        organs: the network's table.
        heads: label set of the manifest -> label set of the network, or None.
        merge_structures: every structure of the manifest counts as structure 1.

    Returns:
        Data set -> ``entry`` of the manifest, ``mask_values`` (value -> structure index), ``labeled`` (a bool per
        structure) and ``classes`` (class -> {label set: index}, empty for none).

    Raises:
        ValueError: when a structure, label set or class is none of the network's.
    """
    structures, label_sets = organs.structures, organs.label_sets
    _check_heads(heads, label_sets, name=name)
    used = {(item["dataset"], item["class"]) for item in manifest["items"] if "class" in item}
    tables = {}
    for dataset, entry in manifest["datasets"].items():
        where = f"{name}: dataset {dataset!r}"
        values = _mask_values(entry.get("mask_values", {}), structures=structures, merge=merge_structures, where=where)
        channels = {0, *values.values()} if values else set()
        needed = [c for c in entry.get("classes", []) if (dataset, c) in used]
        tables[dataset] = {
            "entry": entry,
            "mask_values": values,
            "labeled": [index in channels for index in range(len(structures))],
            "classes": _class_indices(entry, needed=needed, label_sets=label_sets, heads=heads, where=where),
        }
    return tables


def _check_heads(heads: Mapping[str, str | None], label_sets: Mapping[str, Sequence[str]], *, name: str) -> None:
    for source, head in heads.items():
        if head is not None and head not in label_sets:
            raise ValueError(
                f"{name}: heads must join a label set of the manifest with one of the network's {list(label_sets)} or "
                f"null, got {source!r}: {head!r}; correct heads in the config."
            )


def join_position(
    raw: Mapping[str, Any], *, entry: Mapping[str, Any], positions: Sequence[str], neutral: Sequence[str], where: str
) -> str:
    """The network's position of an item; ``unknown`` for neutral ones.

    Args:
        raw: the item of the manifest.
        entry: its data set.
        positions: the network's table.
        neutral: positions that are taken for unknown.
        where: file and item, for the message.

    Raises:
        ValueError: when it is none of the network's.
    """
    position = str(raw.get("position", entry["position"]))
    if find_name(position, neutral):
        return UNKNOWN
    found = find_name(position, (*positions, "", UNKNOWN))
    if found is None:
        raise ValueError(
            f"{where} (dataset {raw['dataset']!r}), key 'position': expected one of {[*positions, UNKNOWN]}, got "
            f"{position!r}; correct it, or add '{_plain(position)}: {{}}' to organs in the config, or it to "
            "neutral_positions."
        )
    return found


def warn_of_names(items: Sequence[Mapping[str, Any]], tasks: Sequence[Any], *, name: str) -> None:
    """Tells which names of the manifest no task of their key has."""
    for key in dict.fromkeys(key for task in tasks for key in task.schema):
        sharing = [task for task in tasks if key in task.schema]
        unknown = set().union(*(set.intersection(*(task.passed_over(item) for task in sharing)) for item in items))
        if unknown:
            logger.warning(
                f"{name}: nothing learns {named(sorted(unknown))}, which items have as {key}: no task of the config"
                f" declares these names; correct them, or declare them (tasks#{sharing[0].name} in the config)."
            )


def _mask_values(values: Mapping[str, str], *, structures: Sequence[str], merge: bool, where: str) -> dict[int, int]:
    if merge:
        if values and len(structures) < 2:
            raise ValueError(
                f"{where}, key 'mask_values': expected the network to have a structure beside the background to merge "
                f"into, got structures {list(structures)}; add one in the config."
            )
        return {int(raw): int(plain_name(structure) != BACKGROUND) for raw, structure in values.items()}
    found = {int(raw): find_name(structure, structures) for raw, structure in values.items()}
    for raw, structure in values.items():
        if found[int(raw)] is None:
            raise ValueError(
                f"{where}, key 'mask_values': expected structures out of the network's {list(structures)}, got "
                f"{structure!r}; if it is one of them, name it so with prepare_data.py --structure; else add it to "
                "the structures of its organ (organs in the config) and train on it, or set merge_structures to true."
            )
    return {raw: list(structures).index(structure) for raw, structure in found.items() if structure is not None}


def _class_indices(
    entry: Mapping[str, Any],
    *,
    needed: Sequence[str],
    label_sets: Mapping[str, Sequence[str]],
    heads: Mapping[str, str | None],
    where: str,
) -> dict[str, dict[str, int]]:
    """Class name -> {label set: index}; empty where the class is left out."""
    if "label_set" not in entry:
        return {}
    label_set, classes = entry["label_set"], entry["classes"]
    told = find_name(label_set, list(heads))
    head = find_name(label_set, list(label_sets)) if told is None else heads[told]
    if told is not None and head is None:
        return {name: {} for name in classes}
    if head is None:
        raise ValueError(
            f"{where}, key 'label_set': expected one of the network's label sets {list(label_sets)}, got "
            f"{label_set!r}; add 'classes: {_yaml(classes)}' to its organ in organs in the config, or join it with a "
            f"head: heads: {{{_plain(label_set)}: <label set of the network, or null to leave it out>}}."
        )
    table = list(label_sets[head])
    found = {name: find_name(name, table) for name in classes}
    if told is not None and not any(found.values()):
        places = _by_index(classes, table=table, head=head, where=where)
    else:
        _check_classes(found, needed=needed, table=table, label_set=label_set, head=head, where=where)
        places = {name: table.index(same) if same is not None else -1 for name, same in found.items()}
    return {name: {head: place} if place >= 0 else {} for name, place in places.items()}


def _by_index(classes: Sequence[str], *, table: Sequence[str], head: str, where: str) -> dict[str, int]:
    if len(classes) > len(table):
        raise ValueError(
            f"{where}, key 'classes': expected at most {len(table)} classes for head {head!r} {list(table)}, got "
            f"{len(classes)}: {list(classes)}; choose another head in heads, or null to leave it out."
        )
    return {name: index for index, name in enumerate(classes)}


def _check_classes(
    found: Mapping[str, str | None],
    *,
    needed: Sequence[str],
    table: Sequence[str],
    label_set: str,
    head: str,
    where: str,
) -> None:
    """Raises a ValueError when classes that have images are none of the network's; classes without are let be."""
    unknown = [name for name in needed if found[name] is None]
    if not unknown:
        return
    remedy = f"set 'classes: {_yaml([*table, *unknown])}' for {head} (organs in the config) and train on it"
    if any(found.values()):
        remedy += ", or, where they mean classes of the network, name them so with prepare_data.py --classes"
    else:
        remedy = f"set 'classes: {_yaml(list(found))}' for {head} (organs in the config) and train on it"
        if len(found) <= len(table):
            remedy += (
                f", or, where their order is the same, join them by index with heads: {{{_plain(label_set)}: {head}}}"
            )
    raise ValueError(
        f"{where}, key 'classes': expected the network's classes {list(table)} of label set {head!r}, got "
        f"{unknown} of {list(found)}; {remedy}; or leave the label set out with heads: {{{_plain(label_set)}: null}}."
    )


def _plain(name: str) -> str:
    """A name to be copied into a config, which executes some texts."""
    return name if harmless(name) else "its name"


def _yaml(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_plain, names))}]"
