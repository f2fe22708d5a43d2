# SPDX-License-Identifier: Apache-2.0
"""The folder of studies: what of it is not served, and MONAI Label's watch over it."""

from __future__ import annotations

import functools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bundle.label_server.checks import SUFFIXES
from bundle.label_server.folders import links_out

logger = logging.getLogger(__name__)

SHOWN = 5  # names in a line
OWN = ("datastore_v2.json", ".lock", "labels")


def study_links_out(studies: Path) -> Iterator[Path]:
    """Links among images, labels and folders of labels that lead out of the studies, a path without links."""
    labels = studies / "labels"
    for folder in (studies, labels, *labels.glob("*/")):
        yield from links_out(folder, studies)


def unserved(studies: Path) -> Iterator[str]:
    """A line on each kind of thing in the studies that clients will not see, and one where they will see nothing.

    Args:
        studies: folder of images; its ``datastore_v2.json``, if any, was checked.
    """
    names = sorted(path.name for path in studies.iterdir() if path.name not in OWN)
    stems: dict[str, list[str]] = {}
    for name in names:
        suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix) and not (studies / name).is_dir()), None)
        if suffix:
            stems.setdefault(name.removesuffix(suffix), []).append(name)
    images = {name for found in stems.values() for name in found}
    if others := [name for name in names if name not in images | _listed(studies)]:
        yield f"not served: {_short(others)}; images are files that end with {' '.join(SUFFIXES)}, in lower case"
    for found in stems.values():
        if len(found) > 1:
            yield f"{' and '.join(found)} have one name: only one of them is served; rename the others"
    if not images | _listed(studies):
        yield f"{studies} holds no image so far; add files that end with {' '.join(SUFFIXES)}"


def _listed(studies: Path) -> set[str]:
    """Files that MONAI Label has on its list, such as uploads with a suffix in capitals."""
    try:
        table = json.loads((studies / OWN[0]).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    names = {f"{image}{study['image']['ext']}" for image, study in table.get("objects", {}).items()}
    return {name for name in names if (studies / name).is_file()}


def _short(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def guard_store(store: type[Any]) -> None:
    """Lets one thread at a time into MONAI Label's list of studies, and keeps the thread alive that watches the folder.

    Requests and that thread change the same dictionaries. MONAI Label 0.8.5 locks its files alone; the thread ends with
    the first error, and the list no longer follows the folder.

    Args:
        store: class ``LocalDatastore``; its methods are replaced.
    """
    lock = threading.RLock()

    def alone(method: Callable[..., Any], *, watch: bool) -> Callable[..., Any]:
        @functools.wraps(method)
        def locked(*args: Any, **options: Any) -> Any:
            with lock:
                try:
                    return method(*args, **options)
                except Exception:
                    if not watch:
                        raise
                    logger.exception("the folder of studies changed while it was read; it is read at its next change")

        return locked

    for name, method in list(vars(store).items()):
        if callable(method) and not name.startswith("__"):
            setattr(store, name, alone(method, watch=name in ("_on_any_event", "_on_modify_event")))


def guard_scoring(app: type[Any], studies: Path) -> None:
    """Keeps the scoring that MONAI Label starts by itself from following links out of the studies: it does not start.

    Args:
        app: class ``MONAILabelApp``; its method ``async_scoring`` is replaced.
        studies: folder of images, a path without links.
    """
    start = app.async_scoring

    @functools.wraps(start)
    def guarded(self: Any, *args: Any, **options: Any) -> Any:
        for link in study_links_out(studies):
            logger.warning(f"scoring is not started: {link} leads out of the studies; replace it by a copy")
            return {}
        return start(self, *args, **options)

    app.async_scoring = guarded
