# SPDX-License-Identifier: Apache-2.0
"""Probability maps as files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from bundle.sinks.sink import Findings, Sink, Study
from bundle.tasks import Task

_ROUNDING = 1e-4  # between two ways back to the native grid, whose float32 places differ in the fifth digit


class Probabilities(Sink):
    """Each structure's probability in each pixel, as the tasks keep them (``maps``): ``NAME_probabilities.npz``.

    Args:
        tasks: the declared tasks.
    """

    ending = "_probabilities.npz"

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)

    def image(self, study: Study, findings: Findings) -> bytes | None:
        """The file's content; None where the result is withheld."""
        for task in self.tasks:
            found = study.item["found"].get(task.name)
            if found is not None and (maps := task.maps_of(found)) is not None:
                names, probabilities = maps
                spacing = findings.result["spacing_mm"]
                return encode_probabilities(probabilities.numpy(), findings.mask, structures=names, spacing_mm=spacing)
        return None


def round_maps(maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Probabilities as float16 whose most probable structure, of equals the first, is still the mask's.

    Where rounding makes two structures equal or swaps them, the mask's is raised by one step of float16, 0.0005 at
    most. A mask that says otherwise for another reason is left alone.

    Args:
        maps: (C, H, W) in [0, 1].
        mask: (H, W) structure indices.

    Returns:
        (C, H, W) float16.
    """
    rounded = maps.astype(np.float16)
    rows, columns = np.nonzero(rounded.argmax(0) != mask)
    named = mask[rows, columns]
    near = maps[named, rows, columns] >= maps[:, rows, columns].max(0, initial=0) - _ROUNDING
    rows, columns, named = rows[near], columns[near], named[near]
    highest = rounded[:, rows, columns].max(0, initial=0)
    rounded[named, rows, columns] = np.nextafter(highest, np.float16(2))
    return rounded


def encode_probabilities(
    maps: np.ndarray, mask: np.ndarray, *, structures: Sequence[str], spacing_mm: Mapping[str, float | None]
) -> bytes:
    """An .npz file, which ``numpy.load`` reads: ``probabilities``, ``structures`` and ``spacing_mm``.

    NumPy's format holds 16-bit floats and the structures' names; NIfTI has neither, and 8 bits lose what is below
    0.002.

    Args:
        maps: (C, H, W) in [0, 1], see :func:`round_maps`.
        mask: (H, W) structure indices.
        structures: names of the C structures, background first.
        spacing_mm: ``row`` and ``column``; None, where it is not known, is written as nan.
    """
    spacing = [np.nan if spacing_mm[axis] is None else spacing_mm[axis] for axis in ("row", "column")]
    file = io.BytesIO()
    np.savez_compressed(
        file,
        probabilities=round_maps(maps, mask),
        structures=np.array(structures, dtype=np.str_),
        spacing_mm=np.array(spacing, np.float64),
    )
    return file.getvalue()
