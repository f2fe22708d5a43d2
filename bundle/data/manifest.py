# SPDX-License-Identifier: Apache-2.0
"""The manifest (``datalist.json``): read and checked, with messages that name file, item and key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA_PATH = Path(__file__).with_name("datalist.schema.json")

REMEDY = "correct it, or make the manifest again with scripts/prepare_data.py"


def read_datalist(path: str | Path, extra: Mapping[str, Any] | None = None, *, labels: bool = True) -> dict[str, Any]:
    """The manifest at ``path``, valid by ``datalist.schema.json`` and by the checks that a schema cannot express.

    Args:
        path: of the file.
        extra: keys that items may have beside those of the schema -> their schemas, as tasks declare them.
        labels: whether the labels are read: without, items and data sets may have any other keys.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not JSON or not a valid manifest; the message names file, item index and key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a manifest (datalist.json), got no file; make it with scripts/prepare_data.py, or "
            "correct the path."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got a file that cannot be decoded ({error}); {REMEDY}.") from error
    check_datalist(manifest, name=str(path), extra=extra, labels=labels)
    return dict(manifest)


def is_manifest(path: str | Path) -> bool:
    """Whether a file is a manifest, valid or not."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"datasets", "items"} <= content.keys()


def check_datalist(manifest: Any, *, name: str, extra: Mapping[str, Any] | None = None, labels: bool = True) -> None:
    """Refuse a manifest that is not valid.

    Args:
        manifest: the decoded manifest.
        name: the file's name for the messages.
        extra, labels: see ``read_datalist``.

    Raises:
        ValueError: at the first fault; the message names file, item index and key.
    """
    _check_schema(manifest, name=name, extra=extra or {}, labels=labels)
    answered = {item["dataset"] for item in manifest["items"] if not (extra or {}).keys().isdisjoint(item)}
    for dataset, entry in manifest["datasets"].items():
        if (
            labels
            and dataset not in answered
            and not set(entry) & {"label_set", "mask_values", "organ", *(extra or ())}
        ):
            raise ValueError(
                f"{name}: dataset {dataset!r}: expected mask_values, or label_set and classes, got neither; "
                "add what its images are labeled with."
            )
    seen: dict[str, int] = {}
    for index, item in enumerate(manifest["items"]):
        _check_item(item, datasets=manifest["datasets"], name=name, index=index)
        first = seen.setdefault(item["image"], index)
        if first != index:
            raise ValueError(
                f"{name}: item {index}, key 'image': expected each image once, got {item['image']!r} in item {first} "
                "already; remove one of them."
            )


def dataset_fault(name: str, entry: Mapping[str, Any]) -> str:
    """What a manifest would refuse in the entry of a data set, and its name; "" for nothing."""
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    tables = {"properties": {"datasets": schema["properties"]["datasets"]}, "definitions": schema["definitions"]}
    errors = jsonschema.Draft7Validator(tables).iter_errors({"datasets": {name: entry}})
    return next((_describe(error, f"data set {name!r}", remedy="rename or correct it") for error in errors), "")


def _check_schema(manifest: Any, *, name: str, extra: Mapping[str, Any], labels: bool) -> None:
    """Hold the manifest against the schema, but only one item of every shape: equal shapes are equally valid."""
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    for part in ("item", "dataset"):
        schema["definitions"][part]["properties"] |= extra
        schema["definitions"][part]["additionalProperties"] = not labels
    items = manifest.get("items") if isinstance(manifest, dict) else None
    skeleton = {**manifest, "items": items[:1]} if isinstance(items, list) else manifest
    for error in jsonschema.Draft7Validator(schema).iter_errors(skeleton):
        raise ValueError(_describe(error, name))
    one = jsonschema.Draft7Validator({**schema["definitions"]["item"], "definitions": schema["definitions"]})
    closed = {key for key, rule in schema["definitions"]["item"]["properties"].items() if "enum" in rule}
    valid: set[object] = set()
    for index, item in enumerate(manifest["items"]):
        shape = _shape(item, closed)
        if shape in valid:
            continue
        for error in one.iter_errors(item):
            error.path.extendleft([index, "items"])
            raise ValueError(_describe(error, name))
        valid.add(shape)


def _shape(item: Any, closed: Set[str]) -> object:
    """All of an item that its validity depends on: keys, types, signs, lengths, and the values of ``closed`` keys."""
    if not isinstance(item, dict):
        return type(item)
    return tuple((key, value if key in closed and type(value) is str else _kind(value)) for key, value in item.items())


def _kind(value: Any) -> object:
    if type(value) is str:
        return value != ""
    if type(value) is list:
        return tuple(_kind(v) for v in value)
    if type(value) in (int, float):
        return type(value), value > 0, value < 0, value % 1 == 0
    return type(value), repr(value)


def _check_item(item: Mapping[str, Any], *, datasets: Mapping[str, Any], name: str, index: int) -> None:
    dataset, where = item["dataset"], f"{name}: item {index}"
    if dataset not in datasets:
        raise ValueError(
            f"{where}, key 'dataset': expected one of {list(datasets)}, got {dataset!r}; correct it, or add the data "
            "set to 'datasets'."
        )
    entry = datasets[dataset]
    if "class" in item and item["class"] not in entry.get("classes", []):
        raise ValueError(
            f"{where}, key 'class': expected one of the classes {entry.get('classes', [])} of dataset {dataset!r}, "
            f"got {item['class']!r}; correct it, or add the class to the data set."
        )
    if "label" in item and "mask_values" not in entry:
        raise ValueError(
            f"{where}, key 'label': expected no mask, since dataset {dataset!r} has no mask_values, got "
            f"{item['label']!r}; add mask_values to the data set."
        )
    if broken := [point for point, place in (item.get("points") or {}).items() if place and not _finite(place)]:
        raise ValueError(
            f"{where}, key 'points/{broken[0]}': expected row and column in pixels, or null where it is not in the "
            f"image, got {str(item['points'][broken[0]])[:80]}; correct it, or leave the point out."
        )
    if not _finite(item.get("spacing", [])):
        raise ValueError(
            f"{where}, key 'spacing': expected two positive numbers (mm per row, mm per column), got "
            f"{str(item['spacing'])[:80]}; leave the key out when the spacing is not known."
        )


def _finite(values: Sequence[float]) -> bool:
    try:
        return all(math.isfinite(value) for value in values)
    except OverflowError:  # a whole number beyond what a float can be
        return False


def _describe(error: Any, name: str, remedy: str = REMEDY) -> str:
    """One sentence for an error of the schema: where, expected, got, what to do."""
    path = [str(p) for p in error.absolute_path]
    where = name
    if path[:1] == ["items"] and len(path) > 1:
        where, path = f"{name}: item {path[1]}", path[2:]
    elif path[:1] == ["datasets"] and len(path) > 1:
        where, path = name if remedy != REMEDY else f"{name}: dataset {path[1]!r}", path[2:]
    if path:
        where += f", key {'/'.join(path)!r}"
    expected = error.schema.get("description", error.message)
    got = f"{error.instance!r}"
    if error.validator in ("required", "dependencies"):
        missing = _missing_keys(error)
        got = f"no key {missing!r} among {list(error.instance)}"
    elif error.validator == "additionalProperties":
        got = error.message[0].lower() + error.message[1:]
    if len(got) > 300:
        got = got[:300] + " ..."
    return f"{where}: expected {expected}, got {got}; {remedy}."


def _missing_keys(error: Any) -> str:
    if error.validator == "required":
        needed = list(error.validator_value)
    else:
        needed = [k for key, keys in error.validator_value.items() if key in error.instance for k in keys]
    return ", ".join(k for k in needed if k not in error.instance)
