# SPDX-License-Identifier: Apache-2.0
"""Entries of DICOM headers that may be absent, empty, or not what the standard asks for; pydicom's warnings on them."""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

logger = logging.getLogger(__name__)


def entry(ds: Any, name: str) -> Any:
    """An entry's value; None where it is absent, empty, or cannot be understood."""
    try:
        value = ds.get(name)
    except Exception as e:  # whatever stands in the file
        logger.debug(f"DICOM entry {name} is not understood: {e}")
        return None
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def numbers(ds: Any, name: str) -> list[float] | None:
    """An entry's finite numbers; None where there are none, or one is none."""
    value = entry(ds, name)
    try:
        found = [float(v) for v in (value if isinstance(value, (list, MultiValue)) else [value])]
    except (TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None


def whole(ds: Any, name: str, default: int | None = None) -> int:
    """An entry's whole number; ``default`` where it is absent.

    Raises:
        ValueError: when it is something else, or absent without a default.
    """
    found = numbers(ds, name)
    if found is not None and found[0] == int(found[0]):
        return int(found[0])
    if default is not None and entry(ds, name) is None:
        return default
    raise ValueError(f"DICOM entry {name} must be a whole number, got {entry(ds, name)!r}; export the image again.")


def text(ds: Any, name: str) -> str:
    """An entry as text in capitals, "" where it is absent."""
    value = entry(ds, name)
    return "" if value is None else str(value).strip(" \0").upper()


def sequence(ds: Any, name: str) -> list[Any]:
    """The items of a sequence, [] where it is absent."""
    value = entry(ds, name)
    return list(value) if isinstance(value, Sequence) else []


def remove(ds: Any, *names: str) -> None:
    """Removes entries that are there."""
    for name in names:
        if name in ds:
            del ds[name]


_LOGGERS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils")
"""pydicom's; a filter of the first one does not see what the others log."""


class _Quiet:
    """Where pydicom's warnings of a thread go while it reads, which Python's own catching cannot tell apart."""

    def __init__(self) -> None:
        self.lock, self.local = threading.Lock(), threading.local()
        self.active, self.catcher, self.show = 0, warnings.catch_warnings(), warnings.showwarning
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(lambda record: self.keep(record.getMessage()))

    def keep(self, message: str) -> bool:
        """Whether a message is for others: it is not while this thread reads."""
        messages: dict[str, None] | None = getattr(self.local, "messages", None)
        if messages is not None:
            messages[message] = None
        return messages is None

    def start(self) -> None:
        """Begins a reading of this thread."""
        self.local.messages = {}
        with self.lock:
            if not self.active:
                self.catcher = warnings.catch_warnings()
                self.catcher.__enter__()
                warnings.filterwarnings("always", module=r"(pydicom|libjpeg|openjpeg|pylibjpeg)(\.|$)")
                self.show, warnings.showwarning = warnings.showwarning, self._dispatch
            self.active += 1

    def stop(self) -> list[str]:
        """Ends it; what was said, once each."""
        with self.lock:
            self.active -= 1
            if not self.active:
                self.catcher.__exit__(None, None, None)
        messages, self.local.messages = list(self.local.messages), None
        return messages

    def _dispatch(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if self.keep(str(message)):
            self.show(message, *args, **kwargs)


_QUIET = _Quiet()


@contextmanager
def quiet_reading(path: str) -> Iterator[None]:
    """Keeps pydicom's warnings out of the output while a file is read; they go to the debug log, with its name."""
    _QUIET.start()
    try:
        yield
    finally:
        for message in _QUIET.stop():
            logger.debug(f"{path}: {message}")
