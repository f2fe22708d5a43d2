# SPDX-License-Identifier: Apache-2.0
"""What a user asks of each image of a folder: which files, under which names the results go, with which prompts."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.failures import named
from bundle.files import OutputFolder
from bundle.tables import plain_cell
from bundle.vocabulary import REQUESTED_PROMPTS, encode_prompt

logger = logging.getLogger(__name__)

_RESULT = re.compile(r"(?P<image>(?P<clip>.+?)(_frame\d{5,})?)_(?P<kind>mask(_\d+)?|overlay|restored|sc)")


def _relative(path: str, top: Path) -> str:
    """Path below ``top`` with forward slashes; the bare file name when it lies elsewhere."""
    file = Path(path).absolute()
    return file.relative_to(top).as_posix() if file.is_relative_to(top) and file != top else file.name


def _stem(name: str) -> str:
    return name[:-7] if name.lower().endswith(".nii.gz") else str(Path(name).with_suffix(""))


def _result(file: str) -> re.Match[str] | None:
    """The image or clip of which this is a result by its name, and the kind."""
    match = _RESULT.fullmatch(_stem(file))
    return None if match is None or (match["kind"] == "sc" and not file.endswith(".dcm")) else match


def _written(path: str, file: str, results: OutputFolder) -> bool:
    """Whether an earlier run wrote this to the folder of results; a restored image is one to look at."""
    match, real = _result(file), Path(os.path.realpath(path))
    if match is None or match["kind"] == "restored" or not real.is_relative_to(results.folder):
        return False
    return results.wrote(real.relative_to(results.folder))


def name_items(data: Sequence[Mapping[str, Any]], *, dataset_dir: str, output_dir: str) -> list[dict[str, Any]]:
    """Items with ``file``, the path below ``dataset_dir``, and ``output``, the same without suffix if that is unique.

    A ``file`` that an item has is kept. The output of a clip's frame ends with its number.

    Left out, and logged: what lies in ``output_dir``, if that is a folder within ``dataset_dir``; masks and overlays
    beside their image (such as ``x_mask.png``, ``x_mask_1.png``, ``x_frame00000_overlay.png``, ``x_sc.dcm``); and those
    that an earlier run wrote to ``output_dir``, also where their image is gone.

    Raises:
        ValueError: when nothing is left, two items would have one output, or ``output_dir`` is empty.
    """
    if not output_dir:
        raise ValueError("output_dir must name a folder, got an empty name; correct --output_dir.")
    top, results = Path(dataset_dir).absolute(), Path(output_dir).absolute()
    items = [{**item, "file": item.get("file") or _relative(str(item["image"]), top)} for item in data]
    files = {item["file"]: str(item["image"]) for item in items}  # frames of a clip have one
    stems = set(map(_stem, files))
    own = os.path.realpath(results)
    within = top.exists() and not Path(os.path.realpath(top)).is_relative_to(own)  # else all would be in it
    folder = OutputFolder(own)

    def is_result(file: str, path: str) -> bool:
        if within and Path(os.path.realpath(path)).is_relative_to(own):
            return True
        match = _result(file)
        made_of = () if match is None else (match["image"], match["clip"])
        return any(name in stems or name in files for name in made_of) or _written(path, file, folder)

    if left_out := sorted(file for file, path in files.items() if is_result(file, path)):
        what = "masks of others or earlier results and are left out"
        logger.info(f"{len(left_out)} of {len(files)} files are {what}: {named(left_out)}.")
    if items and len(left_out) == len(files):
        raise ValueError(
            f"dataset_dir {top}: expected images, got {len(files)} masks of others or earlier results "
            f"({named(left_out)}); correct --dataset_dir, or choose an --output_dir elsewhere."
        )
    return _with_outputs([item for item in items if item["file"] not in set(left_out)], files)


def _with_outputs(items: Sequence[dict[str, Any]], files: Collection[str]) -> list[dict[str, Any]]:
    """Items with ``output``: without suffix, with it where another file or a clip's frame would have that name.

    Raises:
        ValueError: when two would have one output all the same.
    """
    stems = Counter(map(_stem, files))
    short = {file: stem for file in files if stems[stem := _stem(file)] == 1 and stem not in files}
    while True:
        outputs = [_numbered(short.get(item["file"], item["file"]), item) for item in items]
        count = Counter(outputs)
        shared = {item["file"] for item, output in zip(items, outputs, strict=True) if count[output] > 1}
        if not shared & short.keys():
            break
        for file in shared & short.keys():
            del short[file]
    found: dict[str, str] = {}
    for item, output in zip(items, outputs, strict=True):
        item["output"], other = output, found.setdefault(output, item["file"])
        if other != item["file"]:
            raise ValueError(
                f"{other} and {item['file']}: results of different names expected, got {output} for both; rename one."
            )
    return list(items)


def _numbered(base: str, item: Mapping[str, Any]) -> str:
    return base if item.get("frame") is None else f"{base}_frame{item['frame']:05d}"


def _read_rows(prompts: str) -> dict[str, dict[str, str]]:
    """File name -> prompts that its row gives."""
    try:
        with open(prompts, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise ValueError(f"prompts must be a readable CSV file, got {prompts}: {e}; correct --prompts.") from e
    known = {"file", *REQUESTED_PROMPTS}
    if "file" not in columns or set(columns) - known or len(set(columns)) < len(columns) or not lines:
        raise ValueError(
            f"{prompts}: columns must be file and some of {list(REQUESTED_PROMPTS)}, each once, with a line for each "
            f"file below them, got {list(columns)} and {len(lines)} lines; correct it."
        )
    for number, cells in lines:
        if len(cells) != len(columns):
            raise ValueError(
                f"{prompts}, line {number}: {len(columns)} cells expected, as in the first line, got {len(cells)}: "
                f"{cells}; correct it."
            )
    rows = [dict(zip(columns, cells, strict=True)) for _, cells in lines]
    if twice := [name for name, n in Counter(row["file"] for row in rows).items() if n > 1]:
        raise ValueError(f"{prompts}: each file must have one row, got several for {twice[:5]}; remove the others.")
    given = {row["file"]: {key: (row.get(key) or "").strip() for key in REQUESTED_PROMPTS} for row in rows}
    return {name: {key: value for key, value in row.items() if value} for name, row in given.items()}


def add_prompts(
    items: Sequence[Mapping[str, Any]], *, positions: Sequence[str], defaults: Mapping[str, str], prompts: str | None
) -> list[dict[str, Any]]:
    """Items with ``position``, ``nature`` and ``task``: from their row in the CSV file, else from the defaults.

    Args:
        items: with ``file``, see :func:`name_items`.
        positions: the position table.
        defaults: prompt name -> value for all files without their own.
        prompts: CSV with the columns file and some of position, nature, task; None for none. An empty cell is the
            default.

    Raises:
        ValueError: when the CSV cannot be read, names a file that is not there, or a prompt is in no table.
    """
    files = {item["file"] for item in items}
    given = _read_rows(prompts) if prompts else {}
    rows = {name if name in files else plain_cell(name): row for name, row in given.items()}
    if missing := sorted(set(rows) - files):
        raise ValueError(
            f"{prompts}: files must be images below dataset_dir, got {missing[:5]} that are not there; give paths"
            " relative to dataset_dir, with suffix."
        )
    for name, row in [("the command line", dict(defaults)), *rows.items()]:
        try:
            encode_prompt(row, positions)
        except ValueError as e:
            raise ValueError(f"prompts of {name}: {e}") from e
    return [{**defaults, **item, **rows.get(item["file"], {})} for item in items]
