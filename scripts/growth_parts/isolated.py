# SPDX-License-Identifier: Apache-2.0
"""Steps measured each in its own process, so that none sees the memory of another."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""Plain values: seconds of wall clock, cpu_seconds of this process, peak_mb resident, and what else is known."""


class Watch:
    """Takes times and peak memory of named stretches of work."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Row]:
        """Times what is in it; the row can be filled with more."""
        row: Row = {"step": name}
        wall, cpu = time.perf_counter(), time.process_time()
        yield row
        row |= {
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_mb": round(peak_mb()),
        }
        self.rows.append(row)


def peak_mb() -> float:
    """Most memory that this process had resident so far, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent had before this program was started
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def isolated(work: Callable[..., None], **options: Any) -> list[Row]:
    """The rows that ``work(watch, **options)`` leaves on its watch in a process of its own.

    Raises:
        RuntimeError: when the process ends without them.
    """
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(there, work, options))
    process.start()
    there.close()
    try:
        rows: list[Row] = here.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(
            f"{work.__name__} {options}: figures expected, got exit status {process.exitcode}; see its message above."
        ) from error
    process.join()
    return rows


def _run(connection: Connection, work: Callable[..., None], options: Mapping[str, Any]) -> None:
    watch = Watch()
    work(watch, **options)
    connection.send(watch.rows)


@dataclass(frozen=True)
class Finished:
    """What a command took: seconds, and the peak memory of its largest process in 10^6 bytes."""

    seconds: float
    peak_mb: float


def run_command(command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> Finished:
    """Runs a command to its end, its output going to ``log``.

    Raises:
        RuntimeError: when it fails; the message has the last lines of its output.
    """
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise RuntimeError(
            f"{' '.join(command)}: exit status 0 expected, got {process.returncode}:\n" + "\n".join(lines)
        )
    return Finished(time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6)
