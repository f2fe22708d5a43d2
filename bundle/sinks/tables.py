# SPDX-License-Identifier: Apache-2.0
"""Results as one JSON and one CSV file for all images."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from bundle.sinks.sink import Findings, Run, Sink, Study, in_order
from bundle.tables import ODD_NAMES, csv_table

_TABLES = ("predictions.json", "predictions.csv")


class Tables(Sink):
    """Writes ``predictions.json`` and ``predictions.csv`` at the end; until then rows to ``predictions.partial.csv``.

    An interrupted run keeps what it had, and an earlier run's tables. An image's entry has its file, its frame in a
    clip, its error, of its ``result`` what ``Run.answers`` names, and the files that other sinks wrote. Nothing of a
    file's header is written.

    Under torch.distributed each process has a partial table, ``predictions.partial.<process>.csv`` but for the first
    one, which writes the tables of all images, in the order of the data set.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()  # of the partial table

    def files(self, run: Run) -> Sequence[str]:
        """The partial table, and in the first process the others."""
        return (_partial(run), *(_TABLES if not run.rank else ()))

    def start(self, run: Run) -> None:
        """Begins the partial table."""
        self.run = run
        self.records: list[tuple[int, dict[str, Any]]] = []  # (place in the data set, entry)
        self.columns = list(flat(_record({"file": ""}, "", run.answers.complete, dict.fromkeys(run.kinds))))
        self.partial = _partial(run)
        run.folder.grow(self.partial)
        run.folder.append(self.partial, csv_table([], self.columns))

    def image(self, study: Study, findings: Findings) -> None:
        """Adds an image's entry."""
        empty = self.run.answers.empty(study.item)
        result = {key: findings.result.get(key, value) for key, value in empty.items()}
        record = _record(study.item, study.error, result, study.files)
        with self.lock:
            self.run.folder.append(self.partial, csv_table([flat(record)], self.columns, header=False))
            self.records.append((int(study.item["place"]), record))

    def finish(self) -> Sequence[Path]:
        """Writes the tables, and removes the partial one once all processes' images are in them."""
        records = in_order(self.records)
        written = self._write(records) if not self.run.rank else []
        idist.barrier()
        self.run.folder.remove(self.partial)
        return written

    def _write(self, records: list[dict[str, Any]]) -> list[Path]:
        content = _json_lines({**self.run.head(), "images": records}).encode(errors=ODD_NAMES)
        contents = (content, csv_table(list(map(flat, records)), self.columns))
        return [self.run.folder.write(name, content) for name, content in zip(_TABLES, contents, strict=True)]


def _partial(run: Run) -> str:
    return f"predictions.partial{f'.{run.rank}' if run.rank else ''}.csv"


def _record(item: Mapping[str, Any], error: str, result: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """An image's entry; ``frame`` is its number in a clip."""
    return {"file": item["file"], "frame": item.get("frame"), "error": error, **result, **files}


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as one CSV row: nested keys are joined by a dot."""
    row: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            row.update({f"{key}.{name}": v for name, v in flat(value).items()})
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
