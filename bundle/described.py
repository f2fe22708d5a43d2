# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint or an exported model says of itself, read as data: known keys and plain values only.

MONAI's ``ConfigParser`` evaluates strings that begin with ``$``, and follows those that begin with ``@`` or ``%``. A
file of others may hold such strings, also where PyTorch loads it with ``weights_only``.
"""

from __future__ import annotations

import functools
import itertools
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm

EXPRESSION_MARKS = ("$", "@", "%")
"""First characters of what MONAI's ConfigParser evaluates, refers to or includes."""

_LONGEST = 4000  # characters of a text
_LONGEST_NAME = 100  # characters of a name
_MOST = 10_000  # entries of a list or table
_MOST_IN_ALL = 100_000  # entries of all lists and tables within, each as often as it is met
_LEVELS = 32  # of lists and tables within each other
_MOST_NAMES = 255  # of a table: masks have 8 bits
_WIDEST = 1024  # channels of a decoder
_SHOWN = 60  # characters of a value in a message
_HARMLESS = " _-.()"
"""What a name may hold beside letters and digits to be repeated in a message."""

Check = Callable[[Any], bool]


class NotPlain(ValueError):
    """A file says of itself what is no plain value; nothing of it was executed."""


def _refused(path: str | Path, expected: str, got: str) -> NotPlain:
    safe = "Nothing of it was executed; use a file that you made or whose maker you trust."
    return NotPlain(f"{path}: {expected}, got {got}. {safe}")


def _bounded(value: Any) -> bool:
    """Whether lists and tables end within the bounds; a file may share a list, or hold one that contains itself."""
    level, met = [value], 0
    for _ in range(_LEVELS + 1):
        held = [part for part in level if isinstance(part, (list, tuple, dict))]
        met += sum(map(len, held))
        if not held or met > _MOST_IN_ALL:
            return not held
        inner = (itertools.chain(part, part.values()) if isinstance(part, dict) else part for part in held)
        level = list(itertools.chain.from_iterable(inner))
    return False


def _require_bounded(content: Any, *, path: str | Path, name: str) -> None:
    if not _bounded(content):
        bounds = f"at most {_MOST_IN_ALL} entries in {_LEVELS} levels"
        raise _refused(path, f"{name} must hold {bounds}", "more, or a list or table that contains itself")


def _text(value: Any) -> bool:
    plain = isinstance(value, str) and 0 < len(value) <= _LONGEST
    return plain and value.isprintable() and not value.lstrip().startswith(EXPRESSION_MARKS)


def _name(value: Any) -> bool:
    return _text(value) and value.isidentifier() and value[0] != "_"


def _whole(low: int, high: int, step: int = 1) -> Check:
    return lambda value: type(value) is int and low <= value <= high and value % step == 0


def _number(low: float, high: float) -> Check:
    """Of a number in a range, which NaN is in none; a whole number of any size is compared exactly."""
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


_finite = _number(-sys.float_info.max, sys.float_info.max)


def _one_of(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values


def _list_of(check: Check, low: int = 0, high: int = _MOST) -> Check:
    return lambda value: isinstance(value, (list, tuple)) and low <= len(value) <= high and all(map(check, value))


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _named(value: Any) -> bool:
    return _text(value) and len(value) <= _LONGEST_NAME and not value[0] == value[-1] == "_"  # as MONAI's _target_


def _names(low: int) -> Check:
    def check(value: Any) -> bool:
        fits = isinstance(value, (list, tuple)) and low <= len(value) <= _MOST_NAMES and all(map(_named, value))
        return fits and len(set(value)) == len(value)

    return check


@functools.cache
def encoders() -> frozenset[str]:
    """timm's names, those of its published weights too; none names a place to load from."""
    return frozenset(timm.list_models()) | frozenset(timm.list_pretrained())


def _table_of(key: Check, value: Check, most: int = _MOST) -> Check:
    def check(table: Any) -> bool:
        if not isinstance(table, dict) or len(table) > most:
            return False
        return all(key(name) and value(entry) for name, entry in table.items())

    return check


def _plain(value: Any, depth: int = 4) -> bool:
    """Numbers, texts, switches and None, in lists and tables of a few levels."""
    if isinstance(value, (list, tuple, dict)):
        entries = value.values() if isinstance(value, dict) else value
        named = all(map(_name, value)) if isinstance(value, dict) else True
        return depth > 0 and len(value) <= _MOST and named and all(_plain(entry, depth - 1) for entry in entries)
    return value is None or isinstance(value, bool) or _finite(value) or _text(value)


def _plain_table(value: Any) -> bool:
    return isinstance(value, dict) and _plain(value)


def _part(value: Any) -> bool:
    return _plain_table(value) and _name(value.get("class"))


def _prompt(value: Any) -> bool:
    known = isinstance(value, dict) and set(value) <= {"neutral", "order"}
    order = _table_of(_name, _list_of(_named))
    return known and _list_of(_number(0, 1))(value.get("neutral")) and order(value.get("order", {}))


_TWO = f"2 to {_MOST_NAMES} different names"

NETWORK: dict[str, tuple[Check, str]] = {
    "encoder": (lambda value: isinstance(value, str) and value in encoders(), "one of timm's encoders"),
    "decoder_channels": (_whole(1, _WIDEST), f"a whole number from 1 to {_WIDEST}"),
    "structures": (_names(2), f"a list of {_TWO}"),
    "label_sets": (_table_of(_name, _names(2), _MOST_NAMES), f"a table of names and lists of {_TWO}"),
    "positions": (_names(1), f"a list of 1 to {_MOST_NAMES} different names"),
    "conditioning": (_one_of("film", "additive", "none"), "film, additive or none"),
    "norm": (_one_of("group", "batch"), "group or batch"),
    "pooling": (_one_of("avg", "avgmax"), "avg or avgmax"),
    "guidance_channels": (_whole(0, 2, 2), "0 or 2"),
    "heads": (_table_of(_name, _names(1), _MOST_NAMES), f"a table of names and lists of 1 to {_MOST_NAMES} names"),
    "parts": (
        _table_of(_one_of("encoder", "decoder", "prompter"), _part),
        "a table of encoder, decoder and prompter: the class of each, and plain values",
    ),
    "organs": (_table_of(_named, _or_none(_plain_table), _MOST_NAMES), "a table of names and what they show"),
    "image_size": (_whole(32, 2048, 32), "a multiple of 32 pixels from 32 to 2048"),
    "image_mean": (_list_of(_number(-1000, 1000), 3, 3), "3 numbers from -1000 to 1000"),
    "image_std": (_list_of(_number(0.001, 1000), 3, 3), "3 numbers from 0.001 to 1000"),
    "click_radius": (_number(0.1, 1000), "a number of pixels from 0.1 to 1000"),
    "gate": (_or_none(_table_of(_named, _number(0, 1), _MOST_NAMES)), "a table of names and numbers from 0 to 1"),
    "organ_points": (_table_of(_named, _names(0), _MOST_NAMES), "a table of organs and lists of different names"),
    "point_pairs": (_list_of(_list_of(_named, 2, 2)), "a list of two names each"),
    "learned_from": (_or_none(_list_of(_text)), "a list of data sets"),
    "version": (_text, "a text"),
}
"""Key of a checkpoint's ``network_config`` -> check of its value, and what it expects in words."""

_AS_IN_CHECKPOINTS = (
    "image_size", "image_mean", "image_std", "click_radius", "structures", "label_sets", "positions", "organs", "gate",
    "organ_points", "point_pairs",
)  # fmt: skip

EXPORTED: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(("name", "version", "weights_sha256", "letterbox"), (_text, "a text")),
    "precision": (_one_of("float32", "bfloat16", "int8"), "float32, bfloat16 or int8"),
    "precision_hint": (_one_of("f32", "bf16"), "f32 or bf16"),
    **dict.fromkeys(("kept", "inputs", "image_channels", "outputs"), (_list_of(_text), "a list of names")),
    **{key: NETWORK[key] for key in _AS_IN_CHECKPOINTS},
    "output_values": (lambda told: _text(told) or _table_of(_named, _text, _MOST_NAMES)(told), "a table of texts"),
    "prompt": (_prompt, "a table of neutral (numbers from 0 to 1) and order (a table of names and lists of names)"),
    "organ_structures": (_or_none(_table_of(_text, _list_of(_text))), "a table of names and lists of names"),
    "network": (lambda value: isinstance(value, dict), "a table"),
}
"""The same of an exported model's metadata."""

_NEEDED = ("image_channels", "image_size", "prompt", "outputs", "structures", "label_sets", "positions")


def harmless(value: Any) -> bool:
    """Whether a value's text has only letters, digits, spaces and ``_-.()``: no shell and no config executes it."""
    return _bounded(value) and _harmless(value)


def _harmless(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_harmless, value))
    if isinstance(value, dict):
        return all(_harmless(part) for entry in value.items() for part in entry)
    if isinstance(value, str):
        return all(character.isalnum() or character in _HARMLESS for character in value)
    return value is None or isinstance(value, (bool, float)) or _whole(-(10**20), 10**20)(value)


def as_flag(name: str, value: Any) -> str:
    """``--name value`` to paste into a shell: with lists in double quotes, and the whole in single ones.

    Args:
        name: an id of the config.
        value: harmless, see :func:`harmless`, or a path.
    """
    text = value if isinstance(value, str) else repr(value).replace("'", '"')
    return f"--{name} {shlex.quote('$None' if value is None else text)}"


def _repeated(value: Any) -> str:
    """A value for a message: itself where it is short and harmless, else of which kind it is."""
    if harmless(value) and len(text := repr(value)) <= _SHOWN:
        return text
    if isinstance(value, str):
        marked = value.lstrip().startswith(EXPRESSION_MARKS)
        return "a text that " + (f"begins with one of {' '.join(EXPRESSION_MARKS)}" if marked else "is no plain name")
    if isinstance(value, (list, tuple, dict)):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    return "a number of more than 20 digits" if isinstance(value, int) else f"a value of type {type(value).__name__}"


def described(content: Any, *, path: str | Path, name: str, table: Mapping[str, tuple[Check, str]]) -> dict[str, Any]:
    """What a file says of itself, once all of it is known keys with plain values.

    Args:
        content: what stands in the file.
        path: the file, for messages.
        name: of ``content`` in the file, for messages.
        table: ``NETWORK`` or ``EXPORTED``.

    Raises:
        NotPlain: when it is no table, has an unknown key, a value of another kind, such as a text that begins with
            ``$``, or over 100,000 entries or 32 levels. The message names the key, and repeats what is harmless.
    """
    if not isinstance(content, dict):
        raise _refused(path, f"{name} must be a table of plain values", type(content).__name__)
    _require_bounded(content, path=path, name=name)
    for key, value in content.items():
        shown = repr(key) if isinstance(key, str) and key.isidentifier() else "a key that is no name"
        if key not in table:
            raise _refused(path, f"{name} must hold some of {', '.join(table)}", shown)
        check, expected = table[key]
        if not check(value):
            raise _refused(path, f"{name} must hold {expected} as {shown}", _repeated(value))
    return dict(content)


def plain_values(content: Any, *, path: str | Path, name: str) -> Any:
    """What a file notes in tables and lists, once all of it is plain values.

    Args:
        content: what stands in the file.
        path: the file, for messages.
        name: of ``content`` in the file, for messages.

    Raises:
        NotPlain: when a part is of another kind, or as :func:`described`.
    """
    _require_bounded(content, path=path, name=name)
    return _listed(content, path, name)


def _listed(content: Any, path: str | Path, name: str) -> Any:
    if isinstance(content, dict):
        return {_listed(key, path, name): _listed(value, path, name) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_listed(value, path, name) for value in content]
    special = isinstance(content, str) and content.lstrip().startswith(EXPRESSION_MARKS)
    if special or not (content is None or isinstance(content, (bool, int, float, str))):
        raise _refused(path, f"{name} must hold plain values", "another type or a text that begins with $, @ or %")
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
