# SPDX-License-Identifier: Apache-2.0
"""The folder of studies: what of it is not served, what is not replaced, and MONAI Label's watch over it."""

from __future__ import annotations

import filecmp
import functools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bundle.label_server.checks import SUFFIXES, Refused
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
    listed = _listed(studies)
    stems: dict[str, list[str]] = {}
    repeated = []
    for name in names:
        suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix) and not (studies / name).is_dir()), None)
        if suffix and name.replace(suffix, "") + suffix == name:  # as MONAI Label finds the id, and from it the file
            stems.setdefault(name.removesuffix(suffix), []).append(name)
        elif suffix and name not in listed:
            repeated.append(name)
    images = {name for found in stems.values() for name in found}
    if others := [name for name in names if name not in images | listed | set(repeated)]:
        yield f"not served: {_short(others)}; images are files that end with {' '.join(SUFFIXES)}, in lower case"
    if repeated:
        yield f"not served: {_short(repeated)}; the suffix must stand once in a name, at its end; rename them"
    for found in stems.values():
        if len(found) > 1:
            yield f"{' and '.join(found)} have one name: only one of them is served; rename the others"
    if not images | listed:
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


def label_files(folder: Path, image: str) -> list[Path]:
    """Files of an image's label in a folder of labels: one of each suffix, as several clients may have saved it."""
    return sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name.startswith(image) and path.name[len(image) :].lower() in SUFFIXES
    )


def check_replaced(studies: Path, image: str, *, there: str, sent: str) -> None:
    """Refuses another content for an image that has labels: they would become labels of what they do not show.

    Args:
        studies: folder of images.
        image: its name.
        there: its file, empty for an image that is new.
        sent: file of the new content.

    Raises:
        Refused: with status 409, the tags of the labels and what to do.
    """
    tags = sorted(folder.name for folder in (studies / "labels").glob("*/") if label_files(folder, image))
    if tags and there and Path(there).is_file() and not filecmp.cmp(there, sent, shallow=False):
        raise Refused(
            f"image {image!r} is there with another content and has labels ({', '.join(tags)}), which would become"
            " those of the new image; delete them first, DELETE /datastore/label?id=NAME&tag=TAG, or send it under"
            " another name, image=NAME.",
            status=409,
        )


def guard_labels(store: type[Any]) -> None:
    """Keeps one label of an image in a tag. MONAI Label 0.8.5 keeps one of each suffix, and lists a former one again.

    It also forgets the labels of an image that is sent again, until something else in the folder changes.

    Args:
        store: class ``LocalDatastore``; its methods are replaced.
    """
    save, remove, add = store.save_label, store.remove_label, store.add_image

    @functools.wraps(save)
    def save_label(self: Any, image_id: str, label_filename: str, label_tag: str, *args: Any, **options: Any) -> Any:
        saved = save(self, image_id, label_filename, label_tag, *args, **options)
        folder = Path(self._datastore.label_path(label_tag))
        kept = folder / f"{image_id}{self._datastore.label(image_id, label_tag).ext}"
        for path in label_files(folder, image_id):
            if path != kept and not path.samefile(kept):  # the same where the file system takes no notice of case
                path.unlink()
        return saved

    @functools.wraps(remove)
    def remove_label(self: Any, label_id: str, label_tag: str) -> None:
        remove(self, label_id, label_tag)
        for path in label_files(Path(self._datastore.label_path(label_tag)), label_id):
            path.unlink()

    @functools.wraps(add)
    def add_image(self: Any, image_id: str, *args: Any, **options: Any) -> Any:
        former = self._datastore.objects.get(image_id)
        added = add(self, image_id, *args, **options)
        if former and former.labels:
            self._datastore.objects[added].labels.update(former.labels)
            self._update_datastore_file()
        return added

    store.save_label, store.remove_label, store.add_image = save_label, remove_label, add_image


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
