# SPDX-License-Identifier: Apache-2.0
"""What a user says of data sets on the command line: texts of the form SET=VALUE."""

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


def _pairs(entries: Sequence[str], *, flag: str) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        name, equals, value = unicodedata.normalize("NFC", entry).partition("=")
        if not (name and equals and value):
            raise ValueError(f"{flag}: expected SET=VALUE, got {entry!r}; correct it.")
        pairs[name] = value
    return pairs


def _structures(entries: Sequence[str]) -> dict[str, dict[int, str]]:
    tables: dict[str, dict[int, str]] = {}
    for entry in entries:
        name, _, rest = unicodedata.normalize("NFC", entry).partition("=")
        value, _, structure = (part.strip() for part in rest.partition(":"))
        if not (name and re.fullmatch("[0-9]{1,5}", value) and structure):
            raise ValueError(
                f"--structure: expected SET=VALUE:NAME, such as MYSET=255:lesion, got {entry!r}; correct it."
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
