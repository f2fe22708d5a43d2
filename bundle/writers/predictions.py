# SPDX-License-Identifier: Apache-2.0
"""Predictions to files: a mask and an overlay per image, one JSON and one CSV for all."""

from __future__ import annotations

import csv
import datetime
import errno
import hashlib
import io
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from bundle import __version__
from bundle.vocabulary import UNKNOWN
from bundle.writers.pictures import color, draw_overlay, encode_png

logger = logging.getLogger(__name__)

PROMPTS_USED = ("position", "nature", "task")

_ODD_NAMES = "backslashreplace"  # a file's name need not be UTF-8; in JSON this reads back as the same name


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that an interruption leaves the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as one CSV row: nested keys are joined by a dot."""
    row: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            row.update({f"{key}.{name}": v for name, v in _flat(value).items()})
        else:
            row[key] = value
    return row


def _json_lines(table: Mapping[str, Any]) -> str:
    """JSON with a line for each entry, and for each element of a list; Python's indentation takes ten times as long."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def entry(value: Any) -> str:
        return "[\n" + ",\n".join(map(line, value)) + "\n]" if isinstance(value, list) and value else line(value)

    return "{\n" + ",\n".join(f"{line(key)}: {entry(value)}" for key, value in table.items()) + "\n}\n"


class PredictionWriter:
    """Writes predictions while an evaluator runs; when it completes, exits with status 1 if any file failed.

    It is called with a finished item (image, file, place, pred, picture, result, error), from any thread, writes its
    pictures and gives it back with ``record``, its entry in the tables. Attached to the evaluator whose output those
    items are, it writes the tables. Attach it last: it leaves the process.

    Per image, in the folders of the data set: ``<name>_mask.png`` (8 bit, value = structure index, native size) and
    ``<name>_overlay.png``. At the end ``predictions.json`` and ``predictions.csv``; until then the rows are in
    ``predictions.partial.csv``, so that an interrupted run keeps what it had, and an earlier run's tables.
    What they say of an image is its ``result``, see :class:`bundle.transforms.DescribePredictiond`. Nothing of a
    file's header is written.

    Under torch.distributed each process writes the pictures of its images (and ``predictions.partial.<process>.csv``
    until the end), and the first one the tables of all images, in the order of the data set.

    Args:
        output_dir: folder of the results; made when absent.
        structures: names of the mask's values, background first.
        label_sets: class heads, name -> class names.
        weights: file of the network's weights, for its hash.
        runtime: what runs the network, for the tables.

    Raises:
        OSError: at the start, when ``output_dir`` cannot be written; later, when a picture cannot, for example on a
            full disk.
        SystemExit: at the end, when a file failed.
    """

    def __init__(
        self,
        *,
        output_dir: str,
        structures: Sequence[str],
        label_sets: Mapping[str, Sequence[str]],
        weights: str,
        runtime: str,
    ) -> None:
        self.output_dir, self.weights, self.runtime = Path(output_dir), weights, runtime
        self.structures, self.label_sets = list(structures), dict(label_sets)
        self.records: list[tuple[int, dict[str, Any]]] = []  # (place in the data set, record) of what is written
        self.lock = threading.Lock()  # of the partial table

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``record``, once its pictures and its row in the partial table are written."""
        path = str(item["image"].meta["filename_or_obj"])
        # The reason names the file by its path on this machine, which does not belong in a result.
        error = item["error"].removeprefix(f"{path}: ").replace(path, item["file"])
        record = self._write_image(item, error)
        with self.lock, self.partial.open("a", newline="", encoding="utf-8", errors=_ODD_NAMES) as file:
            csv.DictWriter(file, self.columns).writerow(_flat(record))
        return {**item, "record": record}

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator whose output is items with a ``record``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        self.records = []
        self.columns = self._columns()
        rank = idist.get_rank()
        self.partial = self.output_dir / f"predictions.partial{f'.{rank}' if rank else ''}.csv"
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            with self.partial.open("w", newline="", encoding="utf-8", errors=_ODD_NAMES) as file:
                csv.DictWriter(file, self.columns).writeheader()
        except OSError as e:
            raise OSError(
                f"output_dir must be a folder that can be written, got {self.output_dir}: {e}; choose another with"
                " --output_dir."
            ) from e

    def _columns(self) -> list[str]:
        empty = self._record({"file": "", "error": ""})
        for name, classes in self.label_sets.items():
            empty["classes"][name] = {"predicted": "", "probabilities": dict.fromkeys(classes)}
        return list(_flat(empty))

    def _record(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """An image's entry before its results are known."""
        return {
            "file": item["file"],
            "error": item["error"],
            "notes": "",
            "prompts": {name: item.get(name, UNKNOWN) for name in PROMPTS_USED},
            "spacing_mm": {"row": None, "column": None},
            "areas": {name: {"pixels": None, "mm2": None} for name in self.structures[1:]},
            "classes": {},
            "mask": None,
            "overlay": None,
        }

    def _note(self, engine: Engine) -> None:
        """Gathers the records of images that are written, and tells what failed."""
        for item in engine.state.output:
            self.records.append((int(item["place"]), item["record"]))
            if error := item["record"]["error"]:
                logger.error(f"{item['file']}: {error}")

    def _write_image(self, item: Mapping[str, Any], error: str) -> dict[str, Any]:
        """The image's record, once its pictures are written; it has none with an error."""
        record = self._record({**item, "error": error})
        if error:
            return record
        record.update({key: item["result"][key] for key in ("spacing_mm", "areas", "classes", "notes")})
        study = item["pred"].cpu().numpy()  # (W, H) or (W, H, 1)
        mask = np.ascontiguousarray(study.reshape(study.shape[:2]).T)
        for kind, pixels in (("mask", mask), ("overlay", draw_overlay(item["picture"], mask))):
            record[kind] = f"{item['output']}_{kind}.png"
            path = self.output_dir / record[kind]
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, encode_png(pixels))
            except OSError as e:
                if e.errno == errno.ENAMETOOLONG:
                    reason = f"file name must leave room for _{kind}.png, got {len(path.name)} characters; shorten it."
                    return self._record({**item, "error": reason})
                raise OSError(
                    f"{path} could not be written ({e}); what was done before is in {self.partial}. Free disk space,"
                    " then run the same command again."
                ) from e
        return record

    def _finish(self) -> None:
        shares = [self.records]
        if idist.get_world_size() > 1:
            shares = shares * idist.get_world_size()
            torch.distributed.all_gather_object(shares, self.records)
        gathered = sorted((pair for share in shares for pair in share), key=lambda pair: pair[0])
        records = [record for _, record in gathered]
        if idist.get_rank() == 0:
            self._write_tables(records)
        idist.barrier()  # torchrun stops all processes as soon as one leaves with a status
        self.partial.unlink()
        if failed := [record["file"] for record in records if record["error"]]:
            if idist.get_rank() == 0:
                reasons = "the reasons are above and in the tables."
                logger.error(f"{len(failed)} files failed: {', '.join(failed)}; {reasons}")
            raise SystemExit(1)

    def _write_tables(self, records: list[dict[str, Any]]) -> None:
        header = {
            "created_by": f"ultrasound-uperconvnext {__version__}",
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "model": {"version": __version__, "weights_sha256": sha256(self.weights), "runtime": self.runtime},
            "structures": [
                {"value": i, "name": name, "color": "#" + bytes(color(i)).hex() if i else None}
                for i, name in enumerate(self.structures)
            ],
            "label_sets": {name: list(classes) for name, classes in self.label_sets.items()},
        }
        table = self.output_dir / "predictions.json"
        content = _json_lines({**header, "images": records})
        rows = io.StringIO(newline="")
        writer = csv.DictWriter(rows, self.columns)
        writer.writeheader()
        writer.writerows(_flat(record) for record in records)
        write_atomically(table, content.encode(errors=_ODD_NAMES))
        write_atomically(table.with_suffix(".csv"), rows.getvalue().encode(errors=_ODD_NAMES))
        done = sum(not record["error"] for record in records)
        logger.info(
            f"{done} of {len(records)} images done: masks and overlays in {self.output_dir}, tables {table} and"
            f" {table.with_suffix('.csv')}."
        )
