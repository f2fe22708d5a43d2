# SPDX-License-Identifier: Apache-2.0
"""What a training is: its data, options and components as plain values, and how two of them differ."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any

import monai
import numpy as np
import torch
from torch import Tensor, nn

from bundle import __version__
from bundle.described import as_flag, harmless
from bundle.transforms.readers import image_digest, image_files

_ABSENT = "nothing"
_END = 1 << 16
"""Bytes of each end of an image that tell it from another one of its size."""

_RANDOM = (np.random.RandomState, np.random.Generator, torch.Generator)


def run_identity(
    *,
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    options: Mapping[str, Any],
    components: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run is, as plain values that a checkpoint keeps; :func:`differences` compares two.

    Args:
        data: name of a split -> its items.
        options: ids of the config -> values; a resumed run needs the same.
        components: ids of the config -> objects, for what no option says, such as the transforms of an overlay.
    """
    return {
        "versions": {"bundle": __version__, "monai": monai.__version__, "torch": str(torch.__version__)},
        "data": {name: describe_items(items) for name, items in data.items()},
        "options": {name: _switched(describe(value)) for name, value in options.items()},
        "components": {name: describe(value) for name, value in components.items()},
    }


def describe_items(items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Data set -> number and digest of its items, in order; and ``(all)``, by the order of the data sets.

    The digest is of the items' values, of the content of their masks, and of the size, the beginning and the end of
    their images, since to read all of a large data set takes long. Paths count from the folder that all files share, so
    that a copy elsewhere is the same data.
    """
    files = [path for item in items for path in _files(item)]
    top = os.path.commonpath([os.path.dirname(path) for path in files]) if files else ""
    counts: dict[str, int] = {}
    digests: dict[str, Any] = {}
    order = hashlib.sha256()
    for item in items:
        dataset = str(item.get("dataset", "unknown"))
        rest = {key: value for key, value in item.items() if key not in ("image", "label", "item")}
        found = [rest, *(_file(path, top, content=bool(n)) for n, path in enumerate(_files(item)))]
        digest = digests.setdefault(dataset, hashlib.sha256())
        digest.update(json.dumps(describe(found), sort_keys=True).encode())
        counts[dataset] = counts.get(dataset, 0) + 1
        order.update(json.dumps(dataset).encode())
    digests, counts = {**digests, "(all)": order}, {**counts, "(all)": len(items)}
    return {name: f"{counts[name]} items {digest.hexdigest()[:8]}" for name, digest in digests.items()}


def _files(item: Mapping[str, Any]) -> list[str]:
    """Absolute paths of an item: the image, then its masks."""
    label = item.get("label") or []
    labels = [label] if isinstance(label, (str, Path)) else list(label)
    return [os.path.abspath(path) for path in [item["image"], *labels]]


def _file(path: str, top: str, *, content: bool) -> list[Any]:
    try:
        found = image_digest(path) if content else [_ends(file) for file in image_files(path)]
        return [os.path.relpath(path, top), found]
    except OSError:  # the transforms say better what is wrong with the file
        return [os.path.relpath(path, top), None]


def _ends(path: Path) -> list[Any]:
    """Size, and digest of the first and the last ``_END`` bytes of a file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(size - _END, 0))
        digest.update(file.read(_END))
    return [size, digest.hexdigest()]


def _switched(value: Any) -> Any:
    """The command line gives switches as text."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def describe(value: Any) -> Any:
    """How a value was made, as plain values: an object is its class and its public attributes."""
    if isinstance(value, float) and value != value:
        return "nan"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return describe(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): describe(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(entry) for entry in value]
    return {"_target_": _name(value), **{key: describe(entry) for key, entry in _parts(value)}}


def _name(value: Any) -> str:
    kind = value if isinstance(value, (type, FunctionType)) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object was made of: attributes, a module's children and buffers, what a function has bound."""
    if isinstance(value, (torch.dtype, torch.device, Path, set, frozenset)):
        yield "value", sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, FunctionType):
        yield from inspect.getclosurevars(value).nonlocals.items()
    elif isinstance(value, torch.optim.Optimizer):
        rates = [{"lr": group.get("initial_lr", group["lr"])} for group in value.param_groups]
        groups = [{k: v for k, v in group.items() if k not in ("params", "initial_lr")} for group in value.param_groups]
        yield "groups", [{**group, **rate} for group, rate in zip(groups, rates, strict=True)]
    elif not isinstance(value, type):
        for key, entry in getattr(value, "__dict__", {}).items():
            if not key.startswith("_") and key != "training" and not isinstance(entry, _RANDOM):
                yield key, entry
        if isinstance(value, nn.Module):
            yield from [*value.named_children(), *value.named_buffers(recurse=False)]


def differences(saved: Any, own: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The values in which two descriptions differ: (id, the first one's, the second one's)."""
    if isinstance(saved, Mapping) and isinstance(own, Mapping):
        keys = list(dict.fromkeys([*saved, *own]))
        return [
            entry
            for key in keys
            for entry in differences(saved.get(key, _ABSENT), own.get(key, _ABSENT), f"{name}#{key}" if name else key)
        ]
    if isinstance(saved, list) and isinstance(own, list) and len(saved) == len(own) and _nested(saved + own):
        pairs = enumerate(zip(saved, own, strict=True))
        return [entry for n, (one, other) in pairs for entry in differences(one, other, f"{name}#{n}")]
    return [] if saved == own else [(name, saved, own)]


def _nested(values: Sequence[Any]) -> bool:
    return any(isinstance(value, (Mapping, list)) for value in values)


def refusal(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Why a run does not go on as ``own``, and with which options it does; "" where it can.

    Components are compared where no option differs, and only among equal versions.

    Args:
        saved: the identity in the checkpoint.
        own: that of this process.
    """
    options = differences(saved["options"], own["options"])
    first = options + differences(saved["data"], own["data"], "data")
    if not first and saved["versions"] == own["versions"]:
        first = differences(saved["components"], own["components"])
    if not first:
        return ""
    texts = [f"{_plain(name)}: run has {_plain(one)}, got {_short(other)}" for name, one, other in first[:8]]
    names = dict.fromkeys(name.split("#")[0] for name, _, _ in options if name != "processes")
    given = [(name, saved["options"].get(name)) for name in names]
    safe = all(name in own["options"] and _is_plain(value) for name, value in given)
    more = [f"and {len(first) - 8} more"] if len(first) > 8 else []
    remedy = "resume with what the run was started with"
    if given and safe:
        remedy = f"resume with {' '.join(as_flag(name, value) for name, value in given)}"
    return f"{'; '.join([*texts, *more])}; {remedy}"


def _is_plain(value: Any) -> bool:
    """Whether a value of a file can be repeated: it is harmless, or a path whose parts are."""
    return harmless(value.replace("/", "") if isinstance(value, str) else value)


def _plain(value: Any) -> str:
    if isinstance(value, str) and harmless(value.replace("/", "").replace("#", "")):
        return _short(value)
    return _short(value) if _is_plain(value) else "a value of other characters"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
