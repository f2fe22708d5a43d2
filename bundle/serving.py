# SPDX-License-Identifier: Apache-2.0
"""What MONAI Label needs beside the transforms: choices for its clients, and a config that bears its threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from monai.bundle import ConfigParser

_LOCK = threading.RLock()


def choices(**options: Sequence[str]) -> dict[str, list[str]]:
    """The drop-downs that a MONAI Label client shows: name -> values, the first being the default.

    Also makes ``monai.bundle.ConfigParser`` bear several threads in this process. MONAI Label parses one shared config
    anew in every request that has choices, and its scoring runs two requests at once: one thread then empties the table
    of references that the other one is reading.
    """
    for name in ("parse", "get_parsed_content"):
        method = getattr(ConfigParser, name)
        if not hasattr(method, "one_thread_at_a_time"):
            setattr(ConfigParser, name, _locked(method))
    return {name: list(values) for name, values in options.items()}


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return method(*args, **kwargs)

    call.one_thread_at_a_time = True  # type: ignore[attr-defined]
    return call
