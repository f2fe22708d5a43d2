# SPDX-License-Identifier: Apache-2.0
"""Hands what an evaluator finds to sinks, and answers for the run: names, processes, failed images, exit status."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.utils.data import DataLoader

from bundle.failures import named, one_line
from bundle.files import OutputFolder, writable_folder
from bundle.sinks.sink import Answers, Findings, Run, Sink, Study, in_order, of_all_processes
from bundle.vocabulary import NOT_ULTRASOUND

logger = logging.getLogger(__name__)

_FRAME = re.compile(r"((.+)_frame\d{5,})_[a-z]+(?:_\d+)?\.\w+", re.DOTALL)
"""A file of a clip's frame: output name, clip."""


@dataclass(frozen=True)
class Outcome:
    """What the run says of an image at its end.

    Attributes:
        file: the image.
        output: name of its files, without ending.
        frame: its number in a clip; None for an image.
        error: why it failed, or empty.
        notes: on what was found.
    """

    file: str
    output: str
    frame: int | None
    error: str
    notes: str


class PredictionWriter:
    """Gives each image to the sinks while an evaluator runs; exits with status 1 at the end if any file failed.

    It is called with a finished item (image, file, output, place, pred, picture, result, error), from any thread, and
    gives it back with its ``outcome``. Attached to the evaluator whose output those items are, it starts the sinks and
    finishes them. Attach it last: it leaves the process.

    The files of an image lie in the folders of the data set, ``<output><ending of the sink>``. A file that fails costs
    no other one. Only files of earlier runs are replaced, see :class:`bundle.files.OutputFolder`; the names of all
    files are checked before the first is written.

    Under torch.distributed each process gives its own images to its sinks.

    Args:
        output_dir: folder of the results; made when absent.
        sinks: name -> sink, in the order in which the tables name their files; None for one that is off.
        answers: what a ``result`` holds.
        weights: file of the network's weights, for its hash.
        runtime: what runs the network, for the tables.
        dataloader: of this process's images, whose files are checked before the first is written; None checks each
            when it is written.

    Raises:
        ValueError: when ``sinks`` holds something else, or no sink that is on.
        FileExistsError: at the start, when a file that no earlier run wrote would be replaced.
        OSError: at the start, when ``output_dir`` cannot be written; later, when a file cannot, for example on a full
            disk.
        SystemExit: at the end, when a file failed.
    """

    def __init__(
        self,
        *,
        output_dir: str,
        sinks: Mapping[str, Sink | None],
        answers: Answers,
        weights: str,
        runtime: str,
        dataloader: DataLoader[Any] | None = None,
    ) -> None:
        sinks = _switched_on(sinks)
        # The longest ending first, so that nothing is written of a name that is too long for one of them.
        self.sinks = dict(sorted(sinks.items(), key=lambda pair: -len(pair[1].ending)))
        kinds = tuple(name for name, sink in sinks.items() if sink.ending)
        self.run = Run(OutputFolder(output_dir), kinds, answers, weights=weights, runtime=runtime)
        self.output_dir = self.run.folder.folder
        self.dataloader = dataloader
        self.outcomes: list[tuple[int, Outcome]] = []  # (place in the data set, outcome)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``outcome``, once its files are written."""
        path = str(item["image"].meta["filename_or_obj"])
        # The reason names the file by its path on this machine, which does not belong in a result.
        error = item["error"].removeprefix(f"{path}: ").replace(path, item["file"])
        study = Study(item, error, dict.fromkeys(self.run.kinds))
        findings = Findings() if error else Findings(item["result"], item["pred"])
        if not error:
            study = self._write_files(study, findings)
        if study.error:
            findings = Findings()
        for sink in self.sinks.values():
            if not sink.ending:
                sink.image(study, findings)
        outcome = Outcome(
            item["file"], item["output"], item.get("frame"), study.error, findings.result.get("notes", "")
        )
        return {**item, "outcome": outcome}

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator whose output is items with an ``outcome``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        self.outcomes = []
        self._check()
        for sink in self.sinks.values():
            sink.start(self.run)

    def _planned(self) -> Iterator[str]:
        """Names of the files of this process."""
        if self.dataloader is not None:
            dataset: Any = self.dataloader.dataset
            for place in self.dataloader.sampler:
                yield from (name for sink in self.sinks.values() for name in sink.names(dataset.data[place]))
        for sink in self.sinks.values():
            yield from sink.files(self.run)

    def _check(self) -> None:
        """Refuses an ``output_dir`` before anything is written to it, in all processes if in one."""
        refusal: OSError | None = None
        try:
            writable_folder(str(self.output_dir))
            self.run.folder.check(self._planned())
        except OSError as error:
            refusal = error
        for found in (refusal, *of_all_processes(refusal)):
            if found:
                raise found

    def _write_files(self, study: Study, findings: Findings) -> Study:
        """The image with the names of its files, once they are written; a name that is too long is its error."""
        for name, sink in self.sinks.items():
            content = sink.image(study, findings) if sink.ending else None
            if content is None:
                continue
            file = sink.names(study.item)[0]
            path = self.output_dir / file
            try:
                self.run.folder.write(file, content)
            except FileExistsError:
                raise
            except OSError as e:
                if e.errno == errno.ENAMETOOLONG:
                    got = f"got {len(path.name)} characters; shorten it."
                    reason = f"file name must leave room for {sink.ending}, {got}"
                    return replace(study, error=reason, files=dict.fromkeys(study.files))
                raise OSError(
                    f"{path} could not be written ({e}); what was done before is in {self.output_dir}. Free disk space,"
                    " then run the same command again."
                ) from e
            study.files[name] = file
        return study

    def _note(self, engine: Engine) -> None:
        """Gathers what the run says of finished images, and tells what failed."""
        for item in engine.state.output:
            outcome: Outcome = item["outcome"]
            self.outcomes.append((int(item["place"]), outcome))
            if outcome.error:
                logger.error(one_line(f"{outcome.file}: {outcome.error}"))

    def _finish(self) -> None:
        written = [path for sink in self.sinks.values() for path in sink.finish()]
        outcomes = in_order(self.outcomes)  # all wait: torchrun stops all processes as soon as one leaves with a status
        failed = Counter(outcome.file for outcome in outcomes if outcome.error)
        if not self.run.rank:
            files = f"{', '.join(self.run.kinds)} of each in {self.output_dir}"
            files += f", all together in {' and '.join(map(str, written))}" if written else ""
            logger.info(f"{len(outcomes) - failed.total()} of {len(outcomes)} images done: {files}.")
            _warn(outcomes)
            self._remove_stale(outcomes)
            if failed:
                reasons = "the reasons are above and in the tables."
                names = [f"{file} ({count} frames)" if count > 1 else file for file, count in failed.items()]
                logger.error(f"{len(names)} files failed: {named(names, at_most=100)}; {reasons}")
        if failed:
            raise SystemExit(1)

    def _remove_stale(self, outcomes: list[Outcome]) -> None:
        """Removes an earlier run's files of frames that this one did not do: they would be taken for this one's."""
        frames = {one.output: one.frame for one in outcomes if one.frame is not None}
        clips = {output.removesuffix(f"_frame{frame:05d}") for output, frame in frames.items()}
        done, removed = {one.output for one in outcomes if not one.error}, []
        for folder in sorted({Path(clip).parent for clip in clips}):
            present = os.listdir(self.output_dir / folder) if (self.output_dir / folder).is_dir() else []
            for match in filter(None, map(_FRAME.fullmatch, sorted(present))):
                clip, output, name = ((folder / part).as_posix() for part in (match[2], match[1], match[0]))
                if clip in clips and output not in done and self.run.folder.wrote(name):
                    self.run.folder.remove(name)
                    removed.append(name)
        if removed:
            logger.info(f"{len(removed)} files of frames that only an earlier run did are removed: {named(removed)}.")


def _switched_on(sinks: Mapping[str, Sink | None]) -> dict[str, Sink]:
    """The sinks that are on, one or more."""
    if not isinstance(sinks, Mapping):
        raise ValueError(
            f"sinks must be a table of names and sinks, got {sinks!r}; switch one off with --sinks#NAME '$None'."
        )
    for name, sink in sinks.items():
        if sink is not None and not hasattr(sink, "ending"):
            raise ValueError(
                f"sinks#{name} must be a sink, such as bundle.sinks.Masks, got {sink!r}; correct it, or switch it off"
                f" with --sinks#{name} '$None'."
            )
    found = {name: sink for name, sink in sinks.items() if sink is not None}
    if not found:
        raise ValueError("sinks must hold one that is on, got none, so that nothing would be written; leave one on.")
    return found


def _warn(outcomes: list[Outcome]) -> None:
    """Tells which images cannot be ultrasound."""
    if odd := [outcome.file for outcome in outcomes if NOT_ULTRASOUND in outcome.notes]:
        logger.warning(
            f"{len(odd)} of {len(outcomes)} images: {NOT_ULTRASOUND}, nothing is reported of them: {named(odd)}."
            " The reasons are in the column notes; --check_images false reports on them all the same."
        )
