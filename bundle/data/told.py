# SPDX-License-Identifier: Apache-2.0
"""What a user says of data sets on the command line: texts SET=VALUE, where ``\\=`` stands for = in a set's name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from bundle.data.public_sets import SetOptions


def told_options(options: Mapping[str, Any]) -> SetOptions:
    """The options about data sets.

    Args:
        options: position, nature, structure, mask_threshold, label_set, classes, patient_regex: a list of texts each.

    Raises:
        ValueError: when a text is not of its form; it is named.
    """
    return SetOptions(
        position=_pairs(options["position"], flag="--position"),
        nature=_pairs(options["nature"], flag="--nature"),
        structures=_structures(options["structure"]),
        threshold=_thresholds(options["mask_threshold"]),
        label_set=_pairs(options["label_set"], flag="--label-set"),
        classes={
            name: tuple(c.strip() for c in v.split(","))
            for name, v in _pairs(options["classes"], flag="--classes").items()
        },
        patient=_pairs(options["patient_regex"], flag="--patient-regex"),
    )


def _split(entry: str) -> tuple[str, str]:
    """The set and the value of a text, both empty where it is not of the form; ``bundle.data.known_sets.option``."""
    found = re.fullmatch(r"((?:\\.|[^\\=])+)=(.+)", unicodedata.normalize("NFC", entry), re.DOTALL)
    return (re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL), found[2]) if found else ("", "")


def _pairs(entries: Sequence[str], *, flag: str) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        name, value = _split(entry)
        if not name:
            raise ValueError(f"{flag}: expected SET=VALUE, got {entry!r}; correct it.")
        pairs[name] = value
    return pairs


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
        tables.setdefault(name, {})[int(value)] = structure
    return tables


def _thresholds(entries: Sequence[str]) -> dict[str, int]:
    thresholds = _pairs(entries, flag="--mask-threshold")
    for name, value in thresholds.items():
        if not re.fullmatch("[0-9]{1,5}", value) or int(value) < 1:
            raise ValueError(
                f"--mask-threshold: expected SET=VALUE with a whole number from 1, got {name}={value}; correct it."
            )
    return {name: int(value) for name, value in thresholds.items()}
