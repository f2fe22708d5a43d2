# SPDX-License-Identifier: Apache-2.0
"""The words that all parts share: the four prompts, their values and their order. One table each.

Prompt order and the values of the paper: Chen & Zhang 2025, arXiv 2509.11108 (15 one-hot values). The position list
may grow at its end (``positions`` in the configs); the other three are fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

PAPER_POSITIONS: tuple[str, ...] = ("breast", "cardiac", "thyroid", "head", "kidney", "appendix", "liver", "indis")
TASKS: tuple[str, ...] = ("segmentation", "classification")
TYPES: tuple[str, ...] = ("whole", "local", "location")
NATURES: tuple[str, ...] = ("tumor", "organ")
PROMPTS: tuple[str, ...] = ("position", "task", "type", "nature")

UNKNOWN = "unknown"
"""What a user, a manifest or a config writes for a prompt that is not known."""

NEUTRAL_POSITION = "indis"
"""The position that stands for "any organ" in the paper's table; an unknown position becomes this one."""

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
                + (", or add it to positions in the config and train on it." if name == "position" else ".")
            )
        code += [float(value == v) for v in values]
    return code


def organ_table(
    organ_structures: Mapping[str, Sequence[str]] | None, *, positions: Sequence[str], structures: Sequence[str]
) -> dict[str, list[int]]:
    """Position -> indices of the structures that it can show, ascending.

    A position without an entry shows none; the neutral one shows all. Without any entry every position shows all.

    Args:
        organ_structures: position -> names of its structures; an empty list for a position that shows none.
        positions: the position table.
        structures: names of the segmentation channels, background first.

    Raises:
        ValueError: when an entry names a position or a structure that is in no table, or the background.
    """
    everything = list(range(1, len(structures)))
    given = {} if organ_structures is None else organ_structures
    if not isinstance(given, Mapping):  # the command line gives "null" as text
        raise ValueError(
            f"organ_structures must map positions to lists of structures, got {given!r}; write --organ_structures"
            " \"{'breast': ['lesion']}\", or --organ_structures {{}} for no limits."
        )
    for organ, names in given.items():
        if organ not in positions or not isinstance(names, (list, tuple)) or not set(names) <= set(structures[1:]):
            raise ValueError(
                f"organ_structures must map positions {list(positions)} to lists of structures {list(structures[1:])}, "
                f"got {organ!r}: {names!r}; correct the config."
            )
    shown = {organ: sorted(list(structures).index(name) for name in names) for organ, names in given.items()}
    rest = [] if shown else everything
    return {organ: shown.get(organ, everything if organ == NEUTRAL_POSITION else rest) for organ in positions}


def unclaimed_structures(
    organ_structures: Mapping[str, Sequence[str]] | None, *, structures: Sequence[str]
) -> list[str]:
    """The structures that no organ shows; none where ``organ_structures`` has no entry, and so no limits."""
    claimed = {name for names in (organ_structures or {}).values() for name in names}
    return [name for name in structures[1:] if organ_structures and name not in claimed]


def check_prompted(
    prompted: Iterable[str],
    organ_structures: Mapping[str, Sequence[str]] | None,
    *,
    positions: Sequence[str],
    structures: Sequence[str],
) -> None:
    """Refuses a prompted position without an entry while structures belong to no organ: it might be theirs.

    A position without an entry is fine where every structure has its organ: it shows none.

    Args:
        prompted: positions as prompts say them; unknown and the neutral position show all structures.
        organ_structures: position -> names of its structures.
        positions: the position table.
        structures: names of the segmentation channels, background first.

    Raises:
        ValueError: with the lines that may be added; and as ``organ_table``.
    """
    organ_table(organ_structures, positions=positions, structures=structures)
    free = unclaimed_structures(organ_structures, structures=structures)
    for position in sorted(set(prompted) - {"", UNKNOWN, NEUTRAL_POSITION, *(organ_structures or {})} if free else ()):
        raise ValueError(
            f"position {position!r} must have an entry in organ_structures, got none, while no organ shows {free}; add "
            f"'{position}: [{', '.join(free)}]' to organ_structures in the config, or '{position}: []' if it shows no "
            "structure."
        )


def switch(value: bool | str, name: str) -> bool:
    """A switch of the config as a bool: the command line gives ``true`` and ``false`` as text, and all text is true.

    Raises:
        ValueError: when it is neither.
    """
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, got {value!r}; correct --{name}.")
    return text == "true"
