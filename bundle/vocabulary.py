# SPDX-License-Identifier: Apache-2.0
"""The words that all parts share: the four prompts, their values and their order. One table each.

Prompt order and the values of the paper: Chen & Zhang 2025, arXiv 2509.11108 (15 one-hot values). The position list
may grow at its end (``positions`` in the configs); the other three are fixed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

PAPER_POSITIONS: tuple[str, ...] = ("breast", "cardiac", "thyroid", "head", "kidney", "appendix", "liver", "indis")
TASKS: tuple[str, ...] = ("segmentation", "classification")
RESTORE = "restore"
"""Name of the task that restores images, and what asks for it in place of a task prompt."""
TYPES: tuple[str, ...] = ("whole", "local", "location")
NATURES: tuple[str, ...] = ("tumor", "organ")
PROMPTS: tuple[str, ...] = ("position", "task", "type", "nature")
REQUESTED_PROMPTS: tuple[str, ...] = ("position", "nature", "task")
"""The prompts that a user may give with an image, in the order in which they are shown."""

UNKNOWN = "unknown"
"""What a user, a manifest or a config writes for a prompt that is not known."""

NEUTRAL_POSITION = "indis"
"""The position that stands for "any organ" in the paper's table; an unknown position becomes this one."""

NO_ORGAN = "none"
"""What an image shows that shows none of the organs."""

ANY_POSITION = ("", UNKNOWN, NEUTRAL_POSITION)
"""Positions that stand for any organ."""

BACKGROUND = "background"
"""Structure of index 0 in every structure table."""

NOT_ULTRASOUND = "does not look like ultrasound"
"""How the note begins on an image that cannot be ultrasound."""


def prompt_values(positions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of each prompt, in the order in which their one-hot codes are concatenated.

    Raises:
        ValueError: when ``positions`` lacks the neutral position or names one twice.
    """
    if NEUTRAL_POSITION not in positions:
        raise ValueError(
            f"positions must hold the neutral value {NEUTRAL_POSITION!r}, got {list(positions)}; add it to the list."
        )
    if len(set(positions)) != len(positions):
        raise ValueError(f"positions must be unique, got {list(positions)}; remove the repeated ones.")
    return {"position": tuple(positions), "task": TASKS, "type": TYPES, "nature": NATURES}


def prompt_length(positions: Sequence[str]) -> int:
    """Number of values in a prompt vector: 15 for the paper's eight positions."""
    return sum(len(v) for v in prompt_values(positions).values())


def encode_prompt(prompt: Mapping[str, str], positions: Sequence[str]) -> list[float]:
    """One-hot codes of the four prompts, concatenated.

    Unknown or absent prompts are neutral: position ``indis``, type ``whole``, and no value set (zeros) for task and
    nature.

    Args:
        prompt: prompt name -> value; absent, empty or ``unknown`` means neutral.
        positions: the position table.

    Raises:
        ValueError: when a prompt's name or value is not in the tables.
    """
    tables = prompt_values(positions)
    if extra := set(prompt) - set(tables):
        raise ValueError(f"prompt must be one of {list(tables)}, got {sorted(extra)}; remove them.")
    neutral = {"position": NEUTRAL_POSITION, "type": TYPES[0]}
    code: list[float] = []
    for name, values in tables.items():
        value = prompt.get(name) or UNKNOWN
        if value == UNKNOWN:
            value = neutral.get(name, UNKNOWN)
        if value != UNKNOWN and value not in values:
            raise ValueError(
                f"{name} must be one of {[*values, UNKNOWN]}, got {value!r}; correct it, or use {UNKNOWN!r}"
                + (", or add it to organs in the config and train on it." if name == "position" else ".")
            )
        code += [float(value == v) for v in values]
    return code


class Organs:
    """The one table of what there is to see: what each organ (a value of the position prompt) shows, and its classes.

    Everything else derives from it, in the table's order, so that a table which grows at its end keeps every index.

    Args:
        table: organ -> ``structures``, names of what is outlined in it; ``classes``, names of its diagnoses;
            ``label_set``, the name of these classes where it is not the organ's, so that organs share a class head.
            Each key may be absent. One entry is the neutral organ (``indis``), which stands for any.

    Attributes:
        table: the same, with all keys.
        positions: the organs.
        structures: what is outlined in any of them, background first.
        label_sets: name -> classes.

    Raises:
        ValueError: when the table is none, or an entry is not of this form; the message names the organ.
    """

    def __init__(self, table: Mapping[str, Mapping[str, Any]]) -> None:
        if not isinstance(table, Mapping) or not table:
            raise ValueError(f"organs must map names to what they show, got {table!r}; write {_ORGANS_EXAMPLE}.")
        self.table = {organ: _organ(organ, entry) for organ, entry in table.items()}
        if NO_ORGAN in self.table:
            raise ValueError(f"organs must not name one {NO_ORGAN!r}, which stands for no organ; rename it.")
        self.positions = list(self.table)
        if NEUTRAL_POSITION not in self.table:
            raise ValueError(
                f"organs must hold {NEUTRAL_POSITION!r}, which stands for any organ, got {self.positions}; add"
                f" '{NEUTRAL_POSITION}': {{}} to organs."
            )
        shown = (name for entry in self.table.values() for name in entry["structures"])
        self.structures = [BACKGROUND, *dict.fromkeys(shown)]
        self.label_sets: dict[str, list[str]] = {}
        for organ, entry in self.table.items():
            if (
                entry["classes"]
                and self.label_sets.setdefault(entry["label_set"], entry["classes"]) != entry["classes"]
            ):
                raise ValueError(
                    f"organs that share label_set {entry['label_set']!r} must have the same classes, got"
                    f" {entry['classes']} for {organ!r} and {self.label_sets[entry['label_set']]} before; correct them."
                )

    def shows(self, position: str) -> list[int]:
        """Indices of the structures that a position can show, ascending; all for an unknown or the neutral one."""
        if position in ANY_POSITION:
            return list(range(1, len(self.structures)))
        if position == NO_ORGAN:
            return []
        return sorted(self.structures.index(name) for name in self.table[position]["structures"])

    def unanswered(self, asked: Iterable[str], points: Container[str] = ()) -> str:
        """Why nothing is reported for some of the organs asked for, and what to do; "" where all have an answer.

        Args:
            asked: positions.
            points: organs of which key points are known.
        """
        silent = [
            organ
            for organ in sorted(set(asked) - set(ANY_POSITION))
            if organ in self.table and organ not in points and not self.shows(organ) and not self.label_set(organ)
        ]
        if not silent:
            return ""
        return (
            f"{silent} have neither structures nor classes in the organs of the weights: no mask and no class is "
            f"reported for them. Train on them with --organs#{silent[0]} \"{{'structures': [...]}}\", use other "
            "weights, or leave the position out."
        )

    def label_set(self, position: str) -> str:
        """The label set of a position; "" where it has none."""
        entry = self.table.get(position)
        return str(entry["label_set"]) if entry and entry["classes"] else ""


_ORGANS_EXAMPLE = "{breast: {structures: [lesion], classes: [benign, malignant]}, indis: {}}"
_ORGAN_KEYS = ("structures", "classes", "label_set")


def _organ(organ: str, entry: Any) -> dict[str, Any]:
    """An organ's entry with all its keys."""
    given = {} if entry is None else entry
    lists = isinstance(given, Mapping) and all(_names(given.get(key, [])) for key in ("structures", "classes"))
    if not lists or not set(given) <= set(_ORGAN_KEYS):
        raise ValueError(
            f"organs must hold lists of different names as structures and classes, got {organ!r}: {entry!r}; write"
            f" {_ORGANS_EXAMPLE}."
        )
    structures, classes = list(given.get("structures", [])), list(given.get("classes", []))
    label_set = given.get("label_set", organ)
    if BACKGROUND in structures:
        raise ValueError(f"organs must not list the {BACKGROUND}, got it for {organ!r}; remove it.")
    if len(classes) == 1 or (classes and not str(label_set).isidentifier()):
        raise ValueError(
            f"an organ with classes must have two or more, under a label set of letters, digits and underscores, got"
            f" {organ!r}: {classes} as {label_set!r}; correct them, or name them in label_set."
        )
    return {"structures": structures, "classes": classes, "label_set": label_set if classes else ""}


def _names(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name for name in value):
        return False
    return len(set(value)) == len(value)


def switch(value: bool | str, name: str) -> bool:
    """A switch of the config as a bool: the command line gives ``true`` and ``false`` as text, and all text is true.

    Raises:
        ValueError: when it is neither.
    """
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, got {value!r}; correct --{name}.")
    return text == "true"
