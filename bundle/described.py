# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint or an exported model says of itself, read as data: known keys and plain values only.

MONAI's ``ConfigParser`` evaluates strings that begin with ``$``, and follows those that begin with ``@`` or ``%``. A
file of others may hold such strings, also where PyTorch loads it with ``weights_only``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SPECIAL = ("$", "@", "%")  # what ConfigParser gives a meaning to
_LONGEST = 4000  # characters of a text
_MOST = 10_000  # entries of a list or table
_WIDEST = 4096  # channels of a decoder

Check = Callable[[Any], bool]


class NotPlain(ValueError):
    """A file says of itself what is no plain value; nothing of it was executed."""


def _text(value: Any) -> bool:
    plain = isinstance(value, str) and 0 < len(value) <= _LONGEST
    return plain and value.isprintable() and not value.lstrip().startswith(_SPECIAL)


def _name(value: Any) -> bool:
    return _text(value) and value.isidentifier() and value[0] != "_"


def _whole(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, (list, tuple)) and len(value) <= _MOST and all(map(check, value))


def _table_of(key: Check, value: Check) -> Check:
    def check(table: Any) -> bool:
        if not isinstance(table, dict) or len(table) > _MOST:
            return False
        return all(key(name) and value(entry) for name, entry in table.items())

    return check


NETWORK: dict[str, tuple[Check, str]] = {
    "encoder": (_text, "a text"),
    "decoder_channels": (_whole(1, _WIDEST), f"a whole number from 1 to {_WIDEST}"),
    "structures": (_list_of(_text), "a list of names"),
    "label_sets": (_table_of(_name, _list_of(_text)), "a table of names and lists of names"),
    "positions": (_list_of(_text), "a list of names"),
    "conditioning": (_one_of("film", "additive", "none"), "film, additive or none"),
    "norm": (_one_of("group", "batch"), "group or batch"),
    "pooling": (_one_of("avg", "avgmax"), "avg or avgmax"),
    "guidance_channels": (_whole(0, 2), "a whole number from 0 to 2"),
    "version": (_text, "a text"),
}
"""Key of a checkpoint's ``network_config`` -> check of its value, and what it expects in words."""

EXPORTED: dict[str, tuple[Check, str]] = {
    "name": (_text, "a text"),
    "version": (_text, "a text"),
    "weights_sha256": (_text, "a text"),
    "precision": (_one_of("float32", "bfloat16", "int8"), "float32, bfloat16 or int8"),
    "precision_hint": (_one_of("f32", "bf16"), "f32 or bf16"),
    "kept": (_list_of(_text), "a list of names"),
    "inputs": (_list_of(_text), "a list of names"),
    "image_channels": (_list_of(_text), "a list of names"),
    "image_size": (_whole(1, 65536), "a whole number of pixels"),
    "image_mean": (_list_of(_number), "a list of numbers"),
    "image_std": (_list_of(_number), "a list of numbers"),
    "letterbox": (_text, "a text"),
    "click_radius": (_number, "a number"),
    "prompt": (lambda value: isinstance(value, dict) and _list_of(_number)(value.get("neutral")), "a table"),
    "outputs": (_list_of(_text), "a list of names"),
    "output_values": (_text, "a text"),
    "structures": NETWORK["structures"],
    "label_sets": NETWORK["label_sets"],
    "positions": NETWORK["positions"],
    "organ_structures": (
        lambda value: value is None or _table_of(_text, _list_of(_text))(value),
        "a table of names and lists of names",
    ),
    "network": (lambda value: isinstance(value, dict), "a table"),
}
"""The same of an exported model's metadata."""

_NEEDED = ("image_channels", "image_size", "prompt", "outputs", "structures", "label_sets", "positions")


def described(content: Any, *, path: str | Path, name: str, table: Mapping[str, tuple[Check, str]]) -> dict[str, Any]:
    """What a file says of itself, once all of it is known keys with plain values.

    Args:
        content: what stands in the file.
        path: the file, for messages.
        name: of ``content`` in the file, for messages.
        table: ``NETWORK`` or ``EXPORTED``.

    Raises:
        NotPlain: when it is no table, has an unknown key, or a value of another kind, such as a text that begins with
            ``$``. The message names the key and does not repeat the value.
    """
    safe = "Nothing of it was executed; use a file that you made or whose maker you trust."
    if not isinstance(content, dict):
        raise NotPlain(f"{path}: {name} must be a table of plain values, got {type(content).__name__}. {safe}")
    for key, value in content.items():
        shown = repr(key) if isinstance(key, str) and key.isidentifier() else "a key that is no name"
        if key not in table:
            raise NotPlain(f"{path}: {name} must hold some of {', '.join(table)}, got {shown}. {safe}")
        check, expected = table[key]
        if not check(value):
            raise NotPlain(
                f"{path}: {name} must hold plain values, {expected} as {shown}; got something else, such as another "
                f"type or a text that begins with {', '.join(_SPECIAL)}. {safe}"
            )
    return dict(content)


def plain_values(content: Any, *, path: str | Path, name: str) -> Any:
    """What a file notes in tables and lists of any depth, once all of it is plain values.

    Args:
        content: what stands in the file.
        path: the file, for messages.
        name: of ``content`` in the file, for messages.

    Raises:
        NotPlain: when a part is of another kind, or a text or a key begins with ``$``, ``@`` or ``%``.
    """
    if isinstance(content, dict):
        keys = [plain_values(key, path=path, name=name) for key in content]
        return dict(zip(keys, [plain_values(v, path=path, name=name) for v in content.values()], strict=True))
    if isinstance(content, (list, tuple)):
        return [plain_values(value, path=path, name=name) for value in content]
    special = isinstance(content, str) and content.lstrip().startswith(_SPECIAL)
    if special or not (content is None or isinstance(content, (bool, int, float, str))):
        raise NotPlain(
            f"{path}: {name} must hold plain values, got another type or a text that begins with"
            f" {', '.join(_SPECIAL)}. Nothing of it was executed; use a file that you made or whose maker you trust."
        )
    return content


def described_network(content: Any, *, path: str | Path) -> dict[str, Any]:
    """A checkpoint's ``network_config``; see :func:`described`."""
    return described(content, path=path, name="network_config", table=NETWORK)


def described_export(content: Any, *, path: str | Path) -> dict[str, Any]:
    """An exported model's metadata, its ``network`` too; see :func:`described`. What running it needs must be there."""
    found = described(content, path=path, name="metadata", table=EXPORTED)
    if missing := [key for key in _NEEDED if key not in found]:
        raise ValueError(f"{path}: metadata must hold {', '.join(_NEEDED)}, got none of {', '.join(missing)}.")
    described_network(found.get("network", {}), path=path)
    return found
