# SPDX-License-Identifier: Apache-2.0
"""Predictions to files: a mask and an overlay per image, one JSON and one CSV for all."""

from __future__ import annotations

import datetime
import errno
import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.utils.data import DataLoader

from bundle import __version__
from bundle.failures import named, one_line
from bundle.files import OutputFolder, sha256, writable_folder
from bundle.tables import ODD_NAMES, csv_table
from bundle.vocabulary import NOT_ULTRASOUND, UNKNOWN, switch
from bundle.writers.pictures import color, draw_overlay, encode_png
from bundle.writers.probabilities import encode_probabilities

logger = logging.getLogger(__name__)

_TABLES = ("predictions.json", "predictions.csv")
PROMPTS_USED = ("position", "nature", "task")

_ENDINGS = {"probabilities": "_probabilities.npz", "overlay": "_overlay.png", "mask": "_mask.png"}
"""Of an image's files; the longest first, so that nothing is written of a name that is too long for one of them."""


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

    Per image, in the folders of the data set: ``<name>_mask.png`` (8 bit, value = structure index, native size),
    ``<name>_overlay.png`` and, if asked for, ``<name>_probabilities.npz``. At the end ``predictions.json`` and
    ``predictions.csv``; until then the rows are in ``predictions.partial.csv``, so that an interrupted run keeps what
    it had, and an earlier run's tables. What they say of an image is its ``result``, see
    :class:`bundle.transforms.DescribePredictiond`. Nothing of a file's header is written. Only files of earlier runs
    are replaced, see :class:`bundle.files.OutputFolder`.

    Under torch.distributed each process writes the pictures of its images (and ``predictions.partial.<process>.csv``
    until the end), and the first one the tables of all images, in the order of the data set.

    Args:
        output_dir: folder of the results; made when absent.
        structures: names of the mask's values, background first.
        label_sets: class heads, name -> class names.
        weights: file of the network's weights, for its hash.
        runtime: what runs the network, for the tables.
        probabilities: write the probability maps, ``probability_maps`` of the items.
        dataloader: of this process's images, whose files are checked before the first is written; None checks each
            when it is written.

    Raises:
        FileExistsError: at the start, when a file that no earlier run wrote would be replaced.
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
        probabilities: bool | str = False,
        dataloader: DataLoader[Any] | None = None,
    ) -> None:
        self.folder, self.weights, self.runtime = OutputFolder(output_dir), weights, runtime
        self.output_dir = self.folder.folder
        wanted = switch(probabilities, "probabilities")
        self.endings = {kind: end for kind, end in _ENDINGS.items() if wanted or kind != "probabilities"}
        self.dataloader = dataloader
        self.structures, self.label_sets = list(structures), dict(label_sets)
        self.records: list[tuple[int, dict[str, Any]]] = []  # (place in the data set, record) of what is written
        self.lock = threading.Lock()  # of the partial table

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``record``, once its pictures and its row in the partial table are written."""
        path = str(item["image"].meta["filename_or_obj"])
        # The reason names the file by its path on this machine, which does not belong in a result.
        error = item["error"].removeprefix(f"{path}: ").replace(path, item["file"])
        record = self._write_image(item, error)
        with self.lock, self.partial.open("ab") as file:
            file.write(csv_table([_flat(record)], self.columns, header=False))
        kept = {key: value for key, value in item.items() if key != "probability_maps"}  # the largest by far
        return {**kept, "record": record}

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator whose output is items with a ``record``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        self.records = []
        self.columns = self._columns()
        rank = idist.get_rank()
        partial = f"predictions.partial{f'.{rank}' if rank else ''}.csv"
        self._check([*self._planned(), partial, *(_TABLES if not rank else ())])
        self.partial = self.folder.grow(partial)
        self.partial.write_bytes(csv_table([], self.columns))

    def _planned(self) -> Iterator[str]:
        """Names of the pictures of this process's images."""
        if self.dataloader is not None:
            dataset: Any = self.dataloader.dataset
            for place in self.dataloader.sampler:
                yield from (f"{dataset.data[place]['output']}{end}" for end in self.endings.values())

    def _check(self, names: Iterable[str]) -> None:
        """Refuses an ``output_dir`` before anything is written to it, in all processes if in one."""
        refusal: OSError | None = None
        try:
            writable_folder(str(self.output_dir))
            self.folder.check(names)
        except OSError as error:
            refusal = error
        found = [refusal]
        if idist.get_world_size() > 1:
            found = found * idist.get_world_size()
            torch.distributed.all_gather_object(found, refusal)
        if any(found):
            raise refusal or next(filter(None, found))

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
            **dict.fromkeys(reversed(self.endings)),
        }

    def _note(self, engine: Engine) -> None:
        """Gathers the records of images that are written, and tells what failed."""
        for item in engine.state.output:
            self.records.append((int(item["place"]), item["record"]))
            if error := item["record"]["error"]:
                logger.error(one_line(f"{item['file']}: {error}"))

    def _write_image(self, item: Mapping[str, Any], error: str) -> dict[str, Any]:
        """The image's record, once its pictures are written; it has none with an error."""
        record = self._record({**item, "error": error})
        if error:
            return record
        record.update({key: item["result"][key] for key in ("spacing_mm", "areas", "classes", "notes")})
        study = item["pred"].cpu().numpy()  # (W, H) or (W, H, 1)
        mask = np.ascontiguousarray(study.reshape(study.shape[:2]).T)
        for kind, end in self.endings.items():
            if kind == "probabilities" and "probability_maps" not in item:  # the result is withheld
                continue
            record[kind] = f"{item['output']}{end}"
            try:
                self.folder.write(record[kind], self._encoded(kind, item, mask))
            except FileExistsError:
                raise
            except OSError as e:
                path = self.output_dir / record[kind]
                if e.errno == errno.ENAMETOOLONG:
                    reason = f"file name must leave room for {end}, got {len(path.name)} characters; shorten it."
                    return self._record({**item, "error": reason})
                raise OSError(
                    f"{path} could not be written ({e}); what was done before is in {self.partial}. Free disk space,"
                    " then run the same command again."
                ) from e
        return record

    def _encoded(self, kind: str, item: Mapping[str, Any], mask: np.ndarray) -> bytes:
        """The content of one of an image's files."""
        if kind == "mask":
            return encode_png(mask)
        if kind == "overlay":
            return encode_png(draw_overlay(item["picture"], mask))
        maps, spacing = item["probability_maps"].numpy(), item["result"]["spacing_mm"]
        return encode_probabilities(maps, mask, structures=self.structures, spacing_mm=spacing)

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
        self.folder.remove(self.partial.name)
        if failed := [record["file"] for record in records if record["error"]]:
            if idist.get_rank() == 0:
                reasons = "the reasons are above and in the tables."
                logger.error(f"{len(failed)} files failed: {named(failed, at_most=100)}; {reasons}")
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
        content = _json_lines({**header, "images": records}).encode(errors=ODD_NAMES)
        contents = (content, csv_table(list(map(_flat, records)), self.columns))
        written = [self.folder.write(name, content) for name, content in zip(_TABLES, contents, strict=True)]
        done = sum(not record["error"] for record in records)
        logger.info(
            f"{done} of {len(records)} images done: masks and overlays in {self.output_dir}, tables {written[0]} and"
            f" {written[1]}."
        )
        if odd := [record["file"] for record in records if NOT_ULTRASOUND in record["notes"]]:
            logger.warning(
                f"{len(odd)} of {len(records)} images: {NOT_ULTRASOUND}, nothing is reported of them: {named(odd)}."
                " The reasons are in the column notes; --check_images false reports on them all the same."
            )
