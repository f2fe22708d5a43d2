# SPDX-License-Identifier: Apache-2.0
"""What a sink is, and what it gets to see: the run, each image, and what was found in it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ignite.distributed as idist
import numpy as np
import torch

from bundle import __version__
from bundle.files import OutputFolder, sha256

T = TypeVar("T")


class Answers(Protocol):
    """What a ``result`` holds, see :class:`bundle.tasks.Records`.

    Attributes:
        legend: what explains the names and values of all results, as plain values.
        complete: a result with every key that one may have; nested keys are the columns of a table.
    """

    legend: Mapping[str, Any]
    complete: Mapping[str, Any]

    def empty(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The result of an item of which nothing is known, its keys in the order of the tables."""


@dataclass(frozen=True)
class Run:
    """What a run writes to, and what it is.

    Attributes:
        folder: of the results.
        kinds: names of the sinks that write a file of each image.
        answers: what the results hold.
        weights: file of the network's weights.
        runtime: what runs the network.
    """

    folder: OutputFolder
    kinds: tuple[str, ...]
    answers: Answers
    weights: str
    runtime: str

    @property
    def rank(self) -> int:
        """Number of this process; the first one, 0, writes what there is once."""
        return int(idist.get_rank())

    def head(self) -> dict[str, Any]:
        """What the results were made with and what their names mean, as plain values."""
        return {
            "created_by": f"ultrasound-uperconvnext {__version__}",
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "model": {"version": __version__, "weights_sha256": sha256(self.weights), "runtime": self.runtime},
            **self.answers.legend,
        }


@dataclass(frozen=True)
class Study:
    """An image of the run.

    Attributes:
        item: all that is known of it: ``file`` (path below the data set), ``output`` (the same for its files, without
            ending), ``place`` in the data set, ``picture``, ``found``, prompts.
        error: why nothing was found; empty where all went well.
        files: sink -> the file that it wrote of this image, None where there is none (yet).
    """

    item: Mapping[str, Any]
    error: str
    files: dict[str, str | None]


@dataclass(frozen=True)
class Findings:
    """What was found in an image.

    Attributes:
        result: plain values, as in JSON; nothing where the image failed.
        pred: label map as MONAI Label's studies lie, (W, H) or (W, H, 1).
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    pred: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.uint8))

    @cached_property
    def mask(self) -> np.ndarray:
        """Structure indices (H, W) uint8."""
        study = self.pred.cpu().numpy()
        return np.ascontiguousarray(study.reshape(study.shape[:2]).T)


class Sink(Protocol):
    """Writes one kind of file. A sink of its own inherits from this class and says what differs.

    Attributes:
        ending: of the file that it writes of each image, behind the image's output name; empty: it writes none.
    """

    ending: str = ""

    def names(self, item: Mapping[str, Any]) -> Sequence[str]:
        """Names of the files that it may write of an image; they are checked before the first is written."""
        return (f"{item['output']}{self.ending}",) if self.ending else ()

    def files(self, run: Run) -> Sequence[str]:
        """Names of the files that it writes once in this process; they are checked before the first is written."""
        return ()

    def start(self, run: Run) -> None:
        """Called in each process before the first image."""

    def image(self, study: Study, findings: Findings) -> bytes | None:
        """Takes an image, from any thread; gives what is in its file, or None for no file.

        A sink with an ``ending`` gets the images that did not fail. One without gets all, each when its files are
        written.
        """

    def finish(self) -> Sequence[Path]:
        """Called in each process after the last image; the files that it wrote once."""
        return ()


def of_all_processes(value: T) -> list[T]:
    """What each process gives, in their order; all wait for one another."""
    shares = [value] * idist.get_world_size()
    if len(shares) > 1:
        torch.distributed.all_gather_object(shares, value)
    return shares


def in_order(placed: Sequence[tuple[int, T]]) -> list[T]:
    """What all processes have of the images, in the order of the data set; ``placed``: place and value."""
    gathered = [pair for share in of_all_processes(placed) for pair in share]
    return [value for _, value in sorted(gathered, key=lambda pair: pair[0])]
