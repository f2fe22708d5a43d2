# SPDX-License-Identifier: Apache-2.0
"""Cells of a label curve in their folders: how each is trained, what is scored, and how far it has come."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bundle.engines.identity import differences
from bundle.files import OutputFolder, sha256
from bundle.pretraining.curve import scores
from bundle.report.handlers import OUTPUTS

WEIGHTS, TRAINING, DONE, DATALIST = "model.pt", "training.json", "done", "datalist.json"
"""Files of a cell: its weights; how they are trained, written before they are; the same and the scored split, written
at the end; and the images."""

SUMMARY = "eval/summary.json"

_REMEDY = "choose another --output_dir, or remove this folder"


class CellFolder:
    """The folder of a cell.

    Args:
        path: of the folder, which need not be there.
        part: manifest of the cell.
        training: what else the training is made of, in plain values: name -> value.
        split: that is scored.
    """

    def __init__(self, path: Path, *, part: Mapping[str, Any], training: Mapping[str, Any], split: str) -> None:
        self.path, self.part, self.split = path, part, split
        rest = json.dumps({**part, "root": ""}, sort_keys=True).encode()
        data = {"data sets": sorted(part["datasets"]), "root": part["root"]}
        self.training = {**training, **data, "data list": hashlib.sha256(rest).hexdigest()}

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return self.path / WEIGHTS

    @property
    def resumable(self) -> bool:
        """Whether a training was stopped here."""
        return (self.path / "run/last.pt").is_file() and not self.weights.exists()

    def check_training(self) -> None:
        """Refuses a cell that was trained in another way.

        Of a training that was stopped, the options are left to that training: it tells what it can go on with.

        Raises:
            ValueError: with what differs, or when nothing says how the cell was trained.
        """
        finished = (self.path / DONE).is_file() and (self.path / SUMMARY).is_file()
        known = _table(self.path / DONE).get("training") if finished else _table(self.path / TRAINING)
        trained = finished or self.weights.exists()
        if not isinstance(known, Mapping) or not known:
            if trained:
                raise ValueError(
                    f"{self.path}: expected a cell that says how it was trained, got weights of a version up to 0.11.1"
                    f" or of other origin; {_REMEDY}."
                )
            return
        if not (trained or self.resumable):
            return
        own = self.training if trained else {**self.training, "options": known.get("options")}
        if found := differences(known, own):
            texts = [f"{name}: the cell has {old!s:.300}, got {new!s:.300}" for name, old, new in found]
            raise ValueError(
                f"{self.path}: expected a cell of this training, got another; {'; '.join(texts)}; {_REMEDY}."
            )

    def check_files(self) -> None:
        """Refuses to replace, or to take for the cell's, what no earlier run wrote.

        Raises:
            FileExistsError: with the first of those files.
        """
        OutputFolder(self.path).check([WEIGHTS, TRAINING, DONE, *([] if self._has_datalist() else [DATALIST])])
        OutputFolder(self.path / "eval").check(OUTPUTS)

    def begin(self) -> None:
        """Writes what the cell is made of; it is not finished from now on."""
        output = OutputFolder(self.path)
        output.remove(DONE)
        output.write(TRAINING, _json(self.training))
        if not self._has_datalist():
            output.write(DATALIST, _json(self.part))

    def finish(self) -> None:
        """Notes that the cell is trained and scored."""
        OutputFolder(self.path).write(DONE, _json({"training": self.training, "split": self.split}))

    def scores(self) -> list[dict[str, Any]] | None:
        """Scores of the split; None where the cell is not finished, or another split was scored."""
        summary = _table(self.path / SUMMARY)
        told = (_table(self.path / DONE).get("split"), summary.get("split"))
        return scores(summary) if told == (self.split, self.split) else None

    def new_log(self, name: str) -> IO[bytes]:
        """A new file ``<name>_1.log``, or with the next number that is free."""
        paths = (self.path / f"{name}_{number}.log" for number in itertools.count(1))
        return next(path for path in paths if not os.path.lexists(path)).open("xb")

    def _has_datalist(self) -> bool:
        """Whether the list stands there already, as of a cell that an older version began."""
        path = self.path / DATALIST
        return path.is_file() and path.read_bytes() == _json(self.part)


def told_options(options: Sequence[str], *, top: Path) -> list[str]:
    """Options of a training, those that name a file with its hash.

    Args:
        options: as they are given.
        top: folder that their paths start from.
    """
    return [
        f"{option} (SHA-256 {sha256(top / option)})" if os.path.isfile(top / option) else option for option in options
    ]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _table(path: Path) -> Mapping[str, Any]:
    """What a JSON file holds; nothing where there is none, or it holds something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
