# SPDX-License-Identifier: Apache-2.0
"""What a request may name and set: plain names instead of paths, known images, no expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bundle.described import EXPRESSION_MARKS
from bundle.files import RESULT_SUFFIXES

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".jpg", ".png", ".tif")
"""Of images and labels that MONAI Label lists in a folder."""

LONGEST_NAME = 251  # bytes; file systems take 255, with the suffix

SERVERS_OWN = (
    "image", "image_path", "session", "bundle_path", "tracking_uri", "result_write_to_file", "latencies",
    "force_multi_gpu", "skip_writer",
)  # fmt: skip
"""Settings of a request that MONAI Label uses as paths, as places of code or of records, or for itself."""

SWITCHES = ("result_compress", "save_label", "pretrained", "multi_gpu")
"""Settings that are true or false."""

NAMES = {"model": "models", "strategy": "strategies", "method": "scoring", "device": "devices"}
"""Settings that name one of what the server has."""

MOST_EPOCHS = 100_000
MOST_DEPTH = 20  # of lists and objects in each other; clients send 4

RESULT_TYPES = {
    ".png": ("uint8", "uint16"),
    ".bmp": ("uint8",),
    ".tif": ("uint8", "uint16", "int16", "uint32", "int32", "float32"),
    ".nii": ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"),
}
"""Types of pixels that MONAI Label 0.8.5 writes with ITK 5.4, tried one by one; volumes as NIfTI. ITK searches minutes
for int8, int64 and uint64, which it has not."""

CHOICES = {
    "run_id": ("run", "training"),
    "tracking": ("none", "mlflow"),
    "result_extension": RESULT_SUFFIXES,
    "logging": ("debug", "info", "warning", "error", "critical"),
}
"""What a setting may be, in lower case, if it is not empty."""

GROUPS = ("all", "labeled", "unlabeled")


class Refused(ValueError):
    """A request that is not passed on.

    Args:
        message: what was expected, what came and what to do.
        status: of the answer, 400 to 499.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def check_name(key: str, name: Any) -> None:
    """Refuses what could be a path: separators, ``..``, drives, control characters, also percent-encoded.

    Args:
        key: of the name, for the message.
        name: of an image, a tag, a file.

    Raises:
        Refused: when it is no plain name.
    """
    text = name if isinstance(name, str) else ""
    while (decoded := unquote(text)) != text:
        _check_plain(key, text)
        text = decoded
    _check_plain(key, text)


def _check_plain(key: str, name: str) -> None:
    plain = name.strip(". ") and len(name.encode("utf-8", "replace")) <= LONGEST_NAME
    if not plain or re.search(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[A-Za-z]:", name):
        raise Refused(
            f"{key} must be a plain name of at most {LONGEST_NAME} bytes, without a folder, a drive or control"
            f" characters, got {name[:80]!r}."
        )


def check_listed(file: Path) -> None:
    """Refuses the list that MONAI Label keeps of the studies where it is damaged or leads out of them.

    Args:
        file: ``datastore_v2.json`` of the studies; it need not be there.

    Raises:
        ValueError: with the file, and with the name that leads out (``Refused``) or what to do.
    """
    if not file.exists():
        return
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        for key in ("name", "description"):
            table[key] + ""
        _check_folders(file, table)
        for image, study in table.get("objects", {}).items():
            check_name(f"{file}: image", image)
            parts = {"image": study["image"], **study["labels"]}
            for tag, part in parts.items():
                check_name(f"{file}: tag", tag)
                if part["ext"] != "":
                    check_name(f"{file}: suffix", part["ext"])
    except Refused:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file}: expected the list that MONAI Label writes, got a damaged or different file; correct it, or move"
            " it away: a new one is made, without the scores and notes that stood in it."
        ) from error


def _check_folders(file: Path, table: Mapping[str, Any]) -> None:
    """Refuses a list whose folders are others than those that are watched."""
    for key, allowed in (("images_dir", (".", "")), ("labels_dir", ("labels",))):
        if (found := table.get(key, allowed[0])) not in allowed:
            raise Refused(f"{file}: {key} must be {allowed[0]!r}, got {found!r}; correct it.")


def check_file_name(key: str, name: Any, *, stored: bool) -> None:
    """Refuses the name of a file that is sent along. Clients may send its full path; only its last part counts.

    Args:
        key: of the file in the form.
        name: that the client gives it.
        stored: among the studies or labels, where only files of ``SUFFIXES`` are seen again.

    Raises:
        Refused: with status 415 for another suffix.
    """
    parts = re.split(r"[/\\]", name if isinstance(name, str) else "")
    if ".." in parts:
        raise Refused(f"{key}: the name of the file must not lead out of its folder, got {str(name)[:80]!r}.")
    check_name(f"{key}: the name of the file", parts[-1])
    lower = parts[-1].lower()
    if stored and not any(lower.endswith(suffix) and lower.removesuffix(suffix).strip(". ") for suffix in SUFFIXES):
        raise Refused(f"{key} must be one of {' '.join(SUFFIXES)}, got {parts[-1]!r}; convert it.", status=415)


def parsed_settings(key: str, text: str | bytes) -> dict[str, Any]:
    """The JSON object that a request sends.

    Raises:
        Refused: with status 422 when it is none.
    """
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError) as e:
        raise Refused(f"{key} must be a JSON object, got {text[:80]!r} ({e}).", status=422) from None
    if not isinstance(value, dict):
        raise Refused(f"{key} must be a JSON object, got {str(value)[:80]!r}.", status=422)
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list)))
        level = [inner for part in parts for inner in part]
    if level:
        raise Refused(f"{key} must hold at most {MOST_DEPTH} lists and objects in each other, got more.", status=422)
    return value


def check_result(settings: Mapping[str, Any], suffix: str) -> None:
    """Refuses a type of pixels that the file of the result cannot hold.

    Args:
        settings: of a request for a mask, checked.
        suffix: of the image, such as ``.nii.gz``; "" where there are several or none.

    Raises:
        Refused: with the types that it can hold.
    """
    asked = str(settings.get("result_extension") or suffix or ".png").lower()
    result = next((end for end in CHOICES["result_extension"] if asked.endswith(end)), ".png")  # as of JPEG
    types = RESULT_TYPES.get(result, RESULT_TYPES[".nii"])
    dtype = settings.get("result_dtype")
    if dtype not in (None, "") and str(dtype).lower() not in types:
        raise Refused(
            f"result_dtype must be one of {', '.join(types)} for a result as {result}, got {str(dtype)[:80]!r}; or ask"
            ' for another file, such as "result_extension": ".nrrd".'
        )


def check_settings(settings: Mapping[str, Any], known: Mapping[str, Collection[str]] | None = None) -> None:
    """Refuses settings that would be evaluated as code or used as paths. MONAI Label writes them into its configs.

    Args:
        settings: of a request.
        known: names of models, strategies, scoring and devices of the server; what is absent is not compared.

    Raises:
        Refused: with the name of the setting.
    """
    for key, value in _pairs(settings):
        if re.fullmatch(r"_\w*_", key) or key.startswith(EXPRESSION_MARKS):
            raise Refused(f"{key[:80]!r} must not be a setting: configs give it a meaning of their own.")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.lstrip().startswith(EXPRESSION_MARKS):
                raise Refused(f"{key} must not begin with {' or '.join(EXPRESSION_MARKS)}, got a text that does.")
            _check_setting(key, text)
            _check_known(key, text, known or {})


def _pairs(value: Any, key: str = "params") -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield name, inner
            yield from _pairs(inner, name)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, (Mapping, list)):
                yield key, inner
                yield from _pairs(inner, key)


def _check_known(key: str, value: Any, known: Mapping[str, Collection[str]]) -> None:
    """Refuses the name of a model, a strategy, a scoring or a device that the server has not."""
    names = known.get(NAMES.get(key, ""))
    if names is None or value in (None, "") or (key == "device" and re.fullmatch(r"cuda:\d+", str(value))):
        return
    if str(value) not in names:
        raise Refused(f"{key} must be one of {', '.join(names)}, got {str(value)[:80]!r}.")


def _check_number(key: str, value: Any) -> None:
    """Refuses a number of a training's settings that is none, or too low or high."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
    if key == "max_epochs" and not (number in range(1, MOST_EPOCHS + 1) and isinstance(number, int)):
        raise Refused(f"max_epochs must be a whole number from 1 to {MOST_EPOCHS}, got {str(value)[:80]}.")
    if key == "val_split" and not (number == -1 or 0 <= number < 1):
        raise Refused(f"val_split must be -1, or a number from 0 to below 1, got {str(value)[:80]}.")


def _check_setting(key: str, value: Any) -> None:
    """Refuses a value of a setting that the server uses as a path, a suffix, a section or a device list."""
    if value in (None, ""):
        return
    text = str(value).lower()
    if key in SERVERS_OWN:
        raise Refused(f"{key} must not be a setting: the server decides it. Name an image in the address, image=NAME.")
    if key in ("label_tag", "model", "model_filename", "images"):
        check_name(key, value)
    if text not in CHOICES.get(key, (text,)):
        raise Refused(f"{key} must be one of {', '.join(CHOICES[key])}, got {str(value)[:80]!r}.")
    if key == "device" and not isinstance(value, (str, Mapping)):
        raise Refused(f"device must be a text or a list of them, got {str(value)[:80]}.")
    _check_number(key, value)
    if key in SWITCHES and not isinstance(value, bool):
        raise Refused(f"{key} must be true or false, got {str(value)[:80]!r}.")
    if key == "gpus" and not re.fullmatch(r"all|\d+(,\d+)*", text):
        raise Refused(f"{key} must be all or numbers with commas between them, got {str(value)[:80]!r}.")
