# SPDX-License-Identifier: Apache-2.0
"""Loaded training images, kept in memory and on the disk within bounds, and found again by what they are made of."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import tempfile
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Compose, LazyTrait, Randomizable, RandomizableTrait, Transform, apply_transform
from torch.utils.data import get_worker_info

from bundle.data.sampling import Draw
from bundle.files import whole_file
from bundle.transforms.readers import image_digest

logger = logging.getLogger(__name__)

NAMES = ("dataset", "patient", "group", "item")
"""Keys that say whose an image is and where it stands, not what is loaded."""

READERS = ("monai", "torch", "numpy", "pillow", "pydicom", "nibabel", "pynrrd", "scikit-image")
"""Packages whose version may change what is loaded."""

KNOWN = ("bundle", "monai", "torch", "numpy", "builtins")
"""Packages whose program is known by the bundle's source or by a version."""

_OWN_FILE = re.compile(r"[0-9a-f]{64}\.pt|\..+\.part")
"""Names that the cache gives; what else lies in its folder is never removed."""

FULL, TRIMMED, SLACK = 1.0, 0.9, 0.005  # shares of the bound: never beyond, after a removal, written between two looks


class CachedDataset(PersistentDataset):
    """A data set that keeps what its transforms give before the first random one.

    What is kept is found by a hash of the content of the item's files, the item's other values, the settings and the
    bundle's source, and the versions of the reading libraries: a changed mask, config or program is never served stale.
    Transforms of others, and functions, are run each time, with all that follow; a line of the log says so. Entries
    are written aside and renamed, so that a kill leaves none in part, and processes share one folder; a damaged one is
    made again. Where the disk is full or the folder cannot be written, training goes on without. MONAI's
    ``PersistentDataset`` finds entries by the files' names and has no bound; its ``CacheDataset`` fills memory alone.

    Random transforms are seeded by the draw, not by the worker as in MONAI: the same :class:`Draw` gives the same
    sample in any worker, process or resumed run. A plain integer index leaves the transforms' own random state alone.

    Args:
        data: items; ``image`` is a path and ``label`` a list of paths.
        used: items to use in place of ``data``, made of it; None: ``data``.
        transform: transforms; those before the first random one must depend on the item alone.
        cache_dir: folder of the entries, shared by runs; None keeps none on the disk.
        disk_gb: the folder's entries never exceed this, in 10^9 bytes; what was not used for longest goes first. Up to
            20 processes may write at once; more of them may exceed it by 0.5 % each.
        memory_gb: entries in memory never exceed this, in 10^9 bytes, over the loader processes of one data loader.

    Raises:
        ValueError: when a bound is negative.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        *,
        cache_dir: str | None,
        disk_gb: float,
        memory_gb: float,
        used: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(data if used is None else used, transform, cache_dir=None)
        for name, bound in (("disk_gb", disk_gb), ("memory_gb", memory_gb)):
            if bound < 0:
                raise ValueError(f"{name} must be 0 or more, in 10^9 bytes, got {bound}; correct the config.")
        self.disk_bound, self.memory_bound = int(disk_gb * 1e9), int(memory_gb * 1e9)
        self.memory: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.memory_used = 0
        self.written: int | None = None  # bytes since the last look at the folder; None: not looked yet
        kept = _kept_part(transform)
        self.settings, self.kept = _digest(kept), len(kept)
        self.cache_dir = self._usable(cache_dir)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, Draw):
            return super().__getitem__(index)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=index.seed)
        return apply_transform(self._transform, index.place, map_items=False)

    def _pre_transform(self, item_transformed: Any) -> Any:
        return self.transform(item_transformed, end=self.kept, threading=True)

    def _post_transform(self, item_transformed: Any) -> Any:
        return self.transform(item_transformed, start=self.kept)

    def _usable(self, cache_dir: str | None) -> Path | None:
        if not cache_dir or not self.disk_bound:
            return None
        try:
            Path(cache_dir).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache_dir):
                return Path(cache_dir)
        except OSError as error:
            logger.warning(f"{cache_dir} must be a folder that can be written, got: {error}; no cache on the disk.")
            return None

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        """The item before the first random transform: from memory, from the disk, or made and kept."""
        try:
            key = self._key(item_transformed)
        except OSError:  # the transforms say better what is wrong with the file
            return dict(self._pre_transform(dict(item_transformed)))
        entry = self.memory.get(key)
        if entry is not None:
            self.memory.move_to_end(key)
            return dict(entry)
        entry = self._read(key)
        if entry is None:
            entry = dict(self._pre_transform(dict(item_transformed)))
            self._write(key, entry)
        self._remember(key, entry)
        return dict(entry)

    def _key(self, item: Mapping[str, Any]) -> str:
        label = item.get("label") or []
        values = {name: value for name, value in item.items() if name not in NAMES}
        values["image"] = image_digest(item["image"])
        values["label"] = [image_digest(path) for path in ([label] if isinstance(label, str) else label)]
        return hashlib.sha256((self.settings + json.dumps(values, sort_keys=True, default=str)).encode()).hexdigest()

    def _read(self, key: str) -> dict[str, Any] | None:
        if self.cache_dir is None:
            return None
        path = self.cache_dir / f"{key}.pt"
        try:
            entry: dict[str, Any] = torch.load(path, weights_only=True)
            os.utime(path)  # used now
            return entry
        except FileNotFoundError:
            return None
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            logger.warning(f"{path}: a whole cache entry expected, got {type(error).__name__}; made again.")
            return None

    def _write(self, key: str, entry: Mapping[str, Any]) -> None:
        size = _size(entry)
        if self.cache_dir is None or size > SLACK * self.disk_bound:
            return
        try:
            if self.written is None or self.written + size > SLACK * self.disk_bound:
                self._trim()
            self.written = (self.written or 0) + size
            part = self.cache_dir / f".{uuid.uuid4().hex}.part"  # of this process alone
            with whole_file(self.cache_dir / f"{key}.pt", temporary=part, mode=0o600) as file:
                torch.save(dict(entry), file)
        except (OSError, RuntimeError) as error:  # torch.save gives a full disk as RuntimeError
            logger.warning(f"{self.cache_dir}: the cache cannot be written ({error}); this process goes on without.")
            self.cache_dir = None

    def _trim(self) -> None:
        """Removes what was not used for longest until the folder is well within its bound."""
        assert self.cache_dir is not None
        found = []
        with os.scandir(self.cache_dir) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:  # another process was faster
                    continue
                left_over = entry.name.endswith(".part") and time.time() - status.st_mtime > 3600
                if _OWN_FILE.fullmatch(entry.name):
                    found.append((0.0 if left_over else status.st_mtime, status.st_size, entry.path))
        used = sum(size for _, size, _ in found)
        bound = TRIMMED * self.disk_bound
        for used_at, size, path in sorted(found):
            if used <= bound and used_at > 0:
                break
            Path(path).unlink(missing_ok=True)
            used -= size
        self.written = 0

    def _remember(self, key: str, entry: dict[str, Any]) -> None:
        worker = get_worker_info()
        bound = self.memory_bound // (worker.num_workers if worker else 1)
        size = _size(entry)
        if size > bound:
            return
        self.memory[key] = entry
        self.memory_used += size
        while self.memory_used > bound:
            _, oldest = self.memory.popitem(last=False)
            self.memory_used -= _size(oldest)


def _size(entry: Mapping[str, Any]) -> int:
    """Bytes of the entry's tensors, and what the rest takes at most."""
    return 8192 + sum(v.numel() * v.element_size() for v in entry.values() if isinstance(v, torch.Tensor))


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Unknown(TypeError):
    """What a hash of settings and sources cannot tell: a function, or an object of a program of others."""


def _kept_part(transform: Compose) -> list[Transform]:
    """The transforms before the first random one, as far as a change of them would be noticed."""
    first = transform.get_index_of_first(lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform))
    kept = []
    for step in transform.transforms[:first]:
        try:
            _settings(step)
        except _Unknown as found:
            logger.warning(
                f"{type(step).__name__} and what follows is not kept in the cache: a change of {found} would not be"
                " noticed. Put it behind the bundle's and MONAI's own transforms."
            )
            break
        kept.append(step)
    return kept


def _digest(transforms: Sequence[Transform]) -> str:
    """Hash of what the transforms are set to, of the bundle's program text, and of the readers."""
    parts = [json.dumps([_settings(t) for t in transforms], sort_keys=True)]
    parts += [_sha(file.read_bytes()) for file in sorted(Path(__file__).parents[1].rglob("*.py"))]
    parts += [version(name) for name in READERS]
    return _sha("|".join(parts).encode())


def _settings(value: Any) -> Any:
    """Plain values of a transform and of what it holds.

    Raises:
        _Unknown: when a part is neither a plain value nor an object of the bundle, nor a transform of MONAI.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _settings(v) for key, v in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_settings(v) for v in value]
    if isinstance(value, torch.Tensor | np.ndarray):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, torch.dtype | torch.device | np.dtype | np.generic | range | slice):
        return repr(value)
    kind = value if isinstance(value, type) else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    package, plain = kind.__module__.split(".")[0], isinstance(value, type | Enum | LazyTrait)
    if package not in KNOWN or not (plain or package == "bundle" or isinstance(value, Transform | torch.nn.Module)):
        raise _Unknown(name if kind is not FunctionType else f"the function {value.__name__}")
    inside = {"value": repr(value)} if plain else vars(value)
    return {"": name, **{key: _settings(v) for key, v in inside.items()}}
