# SPDX-License-Identifier: Apache-2.0
"""The one place that puts a failure into words: what went wrong and what to do, as the last line that a user sees."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

_MONAI = ("applying transform", "Failed to instantiate component", "Failed to evaluate")
"""How messages begin that only say where another error passed."""

_LOADER = "Caught "
"""How PyTorch's message of an error in a loader process begins; the error's own traceback follows as text."""

_RAISED = re.compile(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception|Exit|Interrupt)): ", re.MULTILINE)
_LATER = "\n\nThe above exception was"

_EXPECTED = (OSError, ValueError, ImportError, FloatingPointError)
"""Kinds of error that speak to the user. Others are faults of a program, of which the traceback is needed."""

_IGNITE = re.compile(r"(Engine|Current) run is terminating due to exception")


NAMED = 5
"""Files that a message names, at most; of more it gives the number."""

_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def one_line(text: str) -> str:
    """Text with its line ends, other control characters, and bytes that are not UTF-8, as escapes."""
    return _NOT_SHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def named(names: Sequence[object], *, at_most: int = NAMED) -> str:
    """The first names, and the number of the others: ``a.png, b.png and 3 more``."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(one_line(str(name)) for name in names[:at_most]) + more


def clause(text: str) -> str:
    """A message as a part of another sentence: in one line, without its final stop."""
    return " ".join(text.split()).rstrip(".;,")


def cause(error: BaseException) -> BaseException:
    """The error itself, without those of MONAI that only say which component or transform it passed."""
    while str(error).startswith(_MONAI) and error.__cause__ is not None:
        error = error.__cause__
    return error


def reason(error: BaseException) -> str:
    """What went wrong, in one text, without the wrappers of MONAI and of PyTorch's loader processes."""
    found = cause(error)
    text = str(found)
    if text.startswith(_LOADER):
        text = _of_loader(text)
    return text or type(found).__name__


def _of_loader(text: str) -> str:
    """The reason in a loader process's traceback: the last error of its chain that is no wrapper."""
    raised = list(_RAISED.finditer(text))
    messages = [text[match.end() :].partition(_LATER)[0].strip() for match in raised]
    for message in reversed(messages):
        if not message.startswith((*_MONAI, _LOADER)):
            return message.split("\n\nTraceback")[0]
    return text


def _speaks(error: BaseException) -> bool:
    """Whether a failure tells the user what to do; others are faults of the program."""
    found = cause(error)
    return isinstance(found, _EXPECTED) or str(found).startswith(_LOADER)


def failed(error: BaseException, *, status: int = 1) -> int:
    """Tells a failure of a script in one line on stderr.

    Args:
        error: what was raised; a fault of the program is raised again.
        status: the script's exit status.

    Returns:
        ``status``.
    """
    if not _speaks(error):
        raise error
    sys.stdout.flush()
    sys.stderr.write(f"error: {one_line(' '.join(reason(error).splitlines()))}\n")
    return status


def report_failures() -> None:
    """On the command line of MONAI's bundles, ends a run that fails with one line that says what to do.

    Errors that speak to the user are told without their traceback, which stands before the line where logging is at
    DEBUG. ignite's lines about the engine that ends are left out. To be called by a config's ``run``; in
    other programs, such as MONAI Label's server, nothing happens.
    """
    if not Path(sys.argv[0]).as_posix().endswith("monai/bundle/__main__.py"):
        return
    sys.excepthook = _tell
    for handler in logging.getLogger().handlers:
        handler.addFilter(_no_engine)


def _no_engine(record: logging.LogRecord) -> bool:
    return _IGNITE.match(record.getMessage()) is None


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Writes an uncaught error to stderr."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()  # else it is drawn once more when the process ends, behind the last line
    sys.stdout.flush()
    if not _speaks(error) or logging.getLogger().isEnabledFor(logging.DEBUG):
        traceback.print_exception(kind, error, trace)
    if isinstance(cause(error), KeyboardInterrupt):
        sys.stderr.write("\nerror: interrupted.\n")
    else:
        sys.stderr.write("\nerror: " + "\n".join(map(one_line, reason(error).splitlines())) + "\n")
    sys.stderr.flush()
