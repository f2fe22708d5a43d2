# SPDX-License-Identifier: Apache-2.0
"""What a user says of data sets on the command line: texts SET=VALUE, where ``\\=`` stands for = in a set's name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from bundle.data.names import plain_name
from bundle.data.public_sets import SetOptions
from bundle.data.splits import SPLITS
from bundle.described import EXPRESSION_MARKS
from bundle.vocabulary import BACKGROUND, NATURES, UNKNOWN


def told_options(options: Mapping[str, Any]) -> SetOptions:
    """The options about data sets.

    Args:
        options: position, nature, structure, mask_threshold, label_set, classes, patient_regex: a list of texts each.

    Raises:
        ValueError: when a text is not of its form; it is named.
    """
    return SetOptions(
        position=_pairs(options["position"], flag="--position"),
        nature=_natures(options["nature"]),
        structures=_structures(options["structure"]),
        threshold=_thresholds(options["mask_threshold"]),
        label_set=_pairs(options["label_set"], flag="--label-set"),
        classes={
            name: tuple(c.strip() for c in v.split(","))
            for name, v in _pairs(options["classes"], flag="--classes").items()
        },
        patient=_patterns(options["patient_regex"]),
    )


def _split(entry: str) -> tuple[str, str]:
    """The set and the value of a text, both empty where it is not of the form; ``bundle.data.known_sets.option``."""
    found = re.fullmatch(r"((?:\\.|[^\\=])+)=(.+)", unicodedata.normalize("NFC", entry), re.DOTALL)
    return (re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL), found[2]) if found else ("", "")


def _pairs(entries: Sequence[str], *, flag: str, names: bool = True) -> dict[str, str]:
    """Set -> value; a value that is a name is none that a config would execute."""
    pairs: dict[str, str] = {}
    for entry in entries:
        name, value = _split(entry)
        if not name:
            raise ValueError(f"{flag}: expected SET=VALUE, got {entry!r}; correct it.")
        if names and any(part.lstrip().startswith(EXPRESSION_MARKS) for part in value.split(",")):
            raise ValueError(f"{flag}: expected a name that does not begin with $, @ or %, got {entry!r}; rename it.")
        if pairs.setdefault(name, value) != value:
            raise ValueError(f"{flag}: expected one value for {name}, got {pairs[name]!r} and {value!r}; remove one.")
    return pairs


def _natures(entries: Sequence[str]) -> dict[str, str]:
    natures = _pairs(entries, flag="--nature")
    for name, value in natures.items():
        if value not in (*NATURES, UNKNOWN):
            raise ValueError(f"--nature: expected one of {[*NATURES, UNKNOWN]}, got {name}={value}; correct it.")
    return natures


def _patterns(entries: Sequence[str]) -> dict[str, str]:
    patterns = _pairs(entries, flag="--patient-regex", names=False)
    for name, value in patterns.items():
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(
                f"--patient-regex: expected a regular expression, got {name}={value}: {error}; correct it."
            ) from None
        if not groups:
            raise ValueError(
                f"--patient-regex: expected a group that is the patient, such as {name}=(\\d+)_, got {name}={value}; "
                "put its part in parentheses."
            )
    return patterns


def _structures(entries: Sequence[str]) -> dict[str, dict[int, str]]:
    tables: dict[str, dict[int, str]] = {}
    for entry in entries:
        name, rest = _split(entry)
        value, _, structure = (part.strip() for part in rest.partition(":"))
        if not (name and re.fullmatch("[0-9]{1,5}", value) and structure):
            raise ValueError(
                f"--structure: expected SET=VALUE:NAME, such as MYSET=255:lesion, got {entry!r}; correct it"
                " (an = in the name of the set is written \\=)."
            )
        _check_structure(entry, value=int(value), structure=structure)
        if tables.setdefault(name, {}).setdefault(int(value), structure) != structure:
            raise ValueError(
                f"--structure: expected one name for {name}={value}, got {tables[name][int(value)]!r} and "
                f"{structure!r}; remove one."
            )
    return tables


def _check_structure(entry: str, *, value: int, structure: str) -> None:
    if structure.startswith(EXPRESSION_MARKS):
        raise ValueError(f"--structure: expected a name that does not begin with $, @ or %, got {entry!r}; rename it.")
    if (value == 0) != (plain_name(structure) == BACKGROUND):
        raise ValueError(
            f"--structure: expected value 0, and no other, to be {BACKGROUND}, got {entry!r}; correct it, or save the "
            "masks inverted."
        )


def _thresholds(entries: Sequence[str]) -> dict[str, int]:
    thresholds = _pairs(entries, flag="--mask-threshold")
    for name, value in thresholds.items():
        if not re.fullmatch("[0-9]{1,5}", value) or int(value) < 1:
            raise ValueError(
                f"--mask-threshold: expected SET=VALUE with a whole number from 1, got {name}={value}; correct it."
            )
    return {name: int(value) for name, value in thresholds.items()}


def told_fractions(values: Sequence[float]) -> dict[str, float]:
    """Split -> share, of ``--fractions``.

    Raises:
        ValueError: when they are no three shares that add up to 1.
    """
    if not (min(values) >= 0 and abs(sum(values) - 1) <= 1e-6):  # so that nan is none
        raise ValueError(
            f"--fractions: expected three shares (train, val, test) from 0 to 1 that add up to 1, got {list(values)}; "
            "correct them."
        )
    return dict(zip(SPLITS, values, strict=True))
