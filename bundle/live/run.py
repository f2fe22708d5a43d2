# SPDX-License-Identifier: Apache-2.0
"""A live run: from the opened source to the report."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bundle.live.outputs import JsonLines, VideoFile, Window, check_outputs
from bundle.live.overlay import draw_result
from bundle.live.pictures import Frame, Result
from bundle.live.report import LiveReport
from bundle.live.sources import DEFAULT_RATE, Source, play
from bundle.live.stream import Stream
from bundle.tasks import Task


@dataclass(frozen=True)
class RunOptions:
    """How a stream is played and where its results go.

    Attributes:
        realtime: keep pace with the source's rate and drop older frames when behind; a camera always does.
        loops: passes over a source that has an end.
        rate: frames per second; None is the source's own, or 25 where it has none.
        output: MP4 to write, or None.
        jsonl: JSON lines to write, or None; neither replaces a file that no earlier run wrote.
        show: show a window.
    """

    realtime: bool = False
    loops: int = 1
    rate: float | None = None
    output: Path | None = None
    jsonl: Path | None = None
    show: bool = False


@contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls ``stop``, a second one interrupts as ever. Only the main thread hears it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, former)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


class Outputs:
    """The results' ways out; closed in the end, whatever happened."""

    def __init__(
        self, options: RunOptions, *, source: Source, rate: float, tasks: Sequence[Task], stack: ExitStack
    ) -> None:
        self.tasks = tasks
        check_outputs({"--output": options.output, "--jsonl": options.jsonl}, sources=source.files)
        self.window = Window() if options.show else None
        self.video = VideoFile(options.output, rate=rate, sources=source.files) if options.output else None
        self.lines = JsonLines(options.jsonl, sources=source.files) if options.jsonl else None
        for output in (self.lines, self.video, self.window):
            if output is not None:
                stack.callback(output.close)

    def write(self, result: Result) -> bool:
        """Writes and shows a result; False when the user ends the run."""
        if self.lines:
            self.lines.write(result)
        if not self.video and not self.window:
            return True
        picture = draw_result(result, self.tasks)
        if self.video:
            self.video.write(picture)
        return self.window.show(picture) if self.window else True


def run_live(
    source: Source, segment: Callable[[Frame], Result], *, tasks: Sequence[Task], options: RunOptions
) -> dict[str, Any]:
    """Plays a source through a segmenter until it ends or the user ends it, and gives the report's summary.

    Args:
        source: opened.
        segment: frame to result, such as a :class:`bundle.live.FrameSegmenter`.
        tasks: the declared tasks.
        options: of the run.

    Raises:
        FileExistsError: before the first frame, when an output would replace a file that no earlier run wrote.
        ValueError: when two outputs are the same file.
        Exception: what the source, the network or an output raised; the outputs are complete until there.
    """
    rate = options.rate or source.rate or DEFAULT_RATE
    realtime = options.realtime or source.kind == "camera"
    frames = play(source, rate=rate, realtime=realtime, loops=options.loops)
    stream, report = Stream(frames, segment, realtime=realtime), LiveReport()
    total = source.length * options.loops if source.length else None
    with ExitStack() as stack:
        outputs = Outputs(options, source=source, rate=rate, tasks=tasks, stack=stack)
        bar = stack.enter_context(tqdm(total=total, unit="frame", smoothing=0.05))
        stack.enter_context(_interruptible(stream.stop))
        for result in stream:
            report.add(result)
            if not outputs.write(result):
                stream.stop()
            bar.update(result.frame.index + 1 - bar.n)
        ended = "stopped by the user" if stream.stopped_early else source.lost or "end of the source"
    return report.summary(
        source=source.kind,
        dropped=stream.dropped,
        skipped=source.skipped,
        ended=ended,
        settings={"realtime": realtime, "loops": options.loops, "rate": rate},
    )
