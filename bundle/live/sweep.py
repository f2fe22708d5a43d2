# SPDX-License-Identifier: Apache-2.0
"""Clicks in slices of a sweep, carried from slice to slice, and the volume that the masks make."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from skimage.transform import resize
from skimage.util import montage
from tqdm import tqdm

from bundle.data.requests import name_items
from bundle.engines.batches import prepare_items
from bundle.files import OutputFolder
from bundle.guidance import middle
from bundle.live.frames import FrameReader, list_frames
from bundle.live.settings import load_runtime
from bundle.live.sources import natural
from bundle.sinks.overlay import draw_overlay
from bundle.sinks.png import encode_png
from bundle.tables import csv_table
from bundle.volumes import of_slices

_FILES = ("slices.csv", "volume.json", "sweep.png")

OVERLAP = 0.25
"""Dice of the masks of two neighbors below which the structure is taken to have ended between them."""


@dataclass(frozen=True)
class Slice:
    """A slice of a sweep and what was found in it.

    Attributes:
        name: for its files: of the image without suffix, of a clip with the frame.
        picture: (H, W, 1 or 3) uint8.
        mask: (H, W) bool.
        spacing: of rows and columns in mm; None: not known.
        source: of the spacing.
    """

    name: str
    picture: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float] | None
    source: str

    @property
    def area(self) -> float | None:
        """In mm2."""
        return None if self.spacing is None else float(self.mask.sum()) * self.spacing[0] * self.spacing[1]


class Sweep:
    """Parallel slices in order, and a network that segments one structure in them, guided by clicks.

    Args:
        bundle_root: folder with ``configs`` and ``models``.
        source: clip, DICOM file of several frames, or folder of slices in the order of their names.
        structure: which is wanted.
        output_dir: folder of the results; earlier ones beside the slices are no slices.
        changes: ids of configs/inference.yaml -> other values; None is the config's.

    Raises:
        FileNotFoundError: when there is no such source, or no weights.
        ValueError: when the network knows no such structure, or the source is one image, or several sweeps.
    """

    def __init__(
        self, bundle_root: str | Path, source: str | Path, *, structure: str, output_dir: str | Path, **changes: Any
    ) -> None:
        self.structure, self.output_dir = structure, output_dir
        self.items = _slices(Path(source), output_dir)
        self.names = [_name(item) for item in self.items]
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise ValueError(f"{source}: slices with names of their own expected, got {twice[0]} twice; rename them.")
        parser = ConfigParser(ConfigParser.load_config_file(str(Path(bundle_root) / "configs" / "inference.yaml")))
        given = {name: value for name, value in changes.items() if value is not None}
        parser.update({"bundle_root": str(bundle_root), "device": torch.device("cpu"), "lanes": 1, **given})
        get = parser.get_parsed_content
        if structure not in get("structures")[1:]:
            known = ", ".join(get("structures")[1:])
            raise ValueError(f"structure must be one of {known}, got {structure!r}; correct --structure.")
        self.value = get("structures").index(structure)
        self.position = get("position")
        self.before, self.after, self.inferer = get("preprocessing"), get("postprocessing"), get("inferer")
        self.network, self.read = load_runtime(parser, self.position), FrameReader()

    def __len__(self) -> int:
        return len(self.items)

    @torch.no_grad()
    def slice(self, number: int, **guidance: Any) -> Slice:
        """What is found in a slice.

        Args:
            number: of the slice, from 0.
            guidance: what a MONAI Label client would say, see ``bundle.transforms.requests.ReadRequestd``.

        Raises:
            OSError, ValueError: when the slice cannot be read.
        """
        item = self.items[number]
        asked = {"position": self.position, **guidance}
        read = self.before({**self.read(item), **asked})
        image, _, args, kwargs = prepare_items([read], torch.device("cpu"))
        outputs = self.inferer(image, self.network, *args, **kwargs)
        done = self.after({**read, "pred": {head: logits[0] for head, logits in outputs.items()}})
        label_map = done["pred"].cpu().numpy()
        spacing = done["result"]["spacing_mm"]
        return Slice(
            self.names[number],
            done["picture"],
            np.asarray(self.value == label_map.reshape(label_map.shape[:2]).T),
            None if spacing["row"] is None else (spacing["row"], spacing["column"]),
            spacing["source"] or "",
        )


def _slices(source: Path, output_dir: str | Path) -> list[dict[str, Any]]:
    """The slices of one sweep in order, without earlier results."""
    named = name_items(list_frames(source), dataset_dir=str(source), output_dir=str(output_dir))
    items = [item for item in named if not _is_own_picture(Path(item["image"]))]
    items.sort(key=lambda item: (natural(str(item["image"])), item.get("frame") or 0))
    sweeps = {
        str(item["image"]) if item.get("frame") is not None else str(Path(item["image"]).parent) for item in items
    }
    if len(sweeps) > 1:
        first, second = sorted(sweeps)[:2]
        raise ValueError(
            f"{source}: one sweep expected, got {len(sweeps)}, such as {first} and {second}; give one of them."
        )
    if len(items) < 2:
        raise ValueError(f"{source}: a sweep of two slices or more expected, got {len(items)}; give another.")
    return items


def _is_own_picture(path: Path) -> bool:
    return path.name == _FILES[-1] and (path.parent / _FILES[0]).is_file()


def _name(item: Mapping[str, Any]) -> str:
    frame = "" if item.get("frame") is None else f"_frame{item['frame']:05d}"
    return f"{Path(item['image']).stem}{frame}"


def propagate(
    sweep: Sweep, clicks: Mapping[int, Sequence[tuple[float, float]]], *, first: int = 0, last: int | None = None
) -> Iterator[tuple[int, Slice]]:
    """The slices that show what was clicked at, with their numbers, in no order.

    From a clicked slice on, each next one gets a click in the middle of its neighbor's mask, until the masks of two
    neighbors overlap too little, for a click beside the structure finds a few pixels; or up to the middle between two
    clicked slices. The neighbor's mask is no guidance, for the network then keeps its size.

    Args:
        sweep: the slices.
        clicks: number of a slice -> clicks on the structure, (row, column) in pixels.
        first: slices before this one are not looked at.
        last: nor are those behind this one; None: to the end.

    Raises:
        ValueError: when a clicked slice is not there, or nothing is found at a click.
    """
    last = len(sweep) - 1 if last is None else last
    if not 0 <= first <= last < len(sweep):
        raise ValueError(
            f"first and last slice must be from 0 to {len(sweep) - 1} and in order, got {first} and {last}; correct"
            " --first and --last."
        )
    if outside := [number for number in clicks if not first <= number <= last]:
        raise ValueError(f"clicked slices must be from {first} to {last}, got {outside[0]}; correct the click.")
    starts = sorted(clicks)
    for start in starts:
        found = sweep.slice(start, **{sweep.structure: [[column, row] for row, column in clicks[start]]})
        if not found.mask.any():
            raise ValueError(f"{found.name}: {sweep.structure} at the click expected, got nothing; click elsewhere.")
        yield start, found
        above = min(((start + other) // 2 for other in starts if other > start), default=last)
        below = max(((start + other) // 2 + 1 for other in starts if other < start), default=first)
        for numbers in (range(start + 1, above + 1), range(start - 1, below - 1, -1)):
            yield from _carried(sweep, found, numbers)


def _carried(sweep: Sweep, former: Slice, numbers: Sequence[int]) -> Iterator[tuple[int, Slice]]:
    for number in numbers:
        row, column = middle(former.mask)
        here = sweep.slice(number, **{sweep.structure: [[column, row]]})
        if here.mask.shape != former.mask.shape or overlap(former.mask, here.mask) < OVERLAP:
            return
        yield number, here
        former = here


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks, 0 where both are empty."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def measure(
    sweep: Sweep,
    clicks: Mapping[int, Sequence[tuple[float, float]]],
    *,
    distance: float,
    first: int = 0,
    last: int | None = None,
) -> dict[str, Any]:
    """The volume of what was clicked at, as plain values; writes masks, ``slices.csv``, ``volume.json``, ``sweep.png``.

    Args:
        sweep: the slices.
        clicks: see :func:`propagate`; so are first and last.
        distance: between neighboring slices, in mm.
        first, last: slices that are looked at.

    Raises:
        FileExistsError: when a file that no earlier run wrote would be replaced.
        ValueError: when the distance is not above 0, a slice has no spacing, and as :func:`propagate`.
    """
    if not 0 < distance < math.inf:
        raise ValueError(f"slice_distance must be above 0 mm, got {distance:g}; correct --slice_distance.")
    folder = OutputFolder(sweep.output_dir, sources=[item["image"] for item in sweep.items])
    folder.check([*_FILES, *(f"{name}_mask.png" for name in sweep.names)])
    found: dict[int, Slice] = {}
    with tqdm(total=len(sweep), unit="slice", desc=sweep.structure) as bar:
        for number, one in propagate(sweep, clicks, first=first, last=last):
            if one.area is None:
                raise ValueError(f"{one.name}: spacing expected, got none, so that nothing is in mL; give --spacing.")
            found[number] = one
            bar.update()
    shown = dict(sorted(found.items()))
    bounds = (first, len(sweep) - 1 if last is None else last)
    volume = _volume(sweep, shown, clicks, distance, bounds)
    _write(folder, sweep, shown)
    folder.write("volume.json", (json.dumps(volume, indent=2) + "\n").encode())
    return volume


def _volume(
    sweep: Sweep,
    shown: Mapping[int, Slice],
    clicks: Mapping[int, Sequence[tuple[float, float]]],
    distance: float,
    bounds: tuple[int, int],
) -> dict[str, Any]:
    ends = (("first", min(shown), bounds[0]), ("last", max(shown), bounds[1]))
    reached = [f"it reaches the {end} slice that was looked at" for end, number, bound in ends if number == bound]
    return {
        "structure": sweep.structure,
        "volume_ml": round(of_slices([one.area or 0.0 for one in shown.values()], distance), 4),
        "slices": len(shown),
        "first_slice": min(shown),
        "last_slice": max(shown),
        "slice_distance_mm": distance,
        "spacing_source": ", ".join(sorted({one.source for one in shown.values()})),
        "clicks": {str(number): [[x, y] for y, x in points] for number, points in sorted(clicks.items())},
        "method": "sum of the areas times the distance (Cavalieri)",
        "notes": [f"{text}: the volume is of what is seen" for text in reached],
    }


def _write(folder: OutputFolder, sweep: Sweep, shown: Mapping[int, Slice]) -> None:
    for number, name in enumerate(sweep.names):
        if number in shown:
            folder.write(f"{name}_mask.png", encode_png(shown[number].mask.astype(np.uint8) * sweep.value))
        else:
            folder.remove(f"{name}_mask.png")  # an earlier run's would be taken for this one's
    rows = [
        {"slice": number, "name": one.name, "pixels": int(one.mask.sum()), "mm2": round(one.area or 0.0, 4)}
        for number, one in shown.items()
    ]
    folder.write("slices.csv", csv_table(rows))
    folder.write("sweep.png", encode_png(_montage(list(shown.values()), sweep.value)))


def _montage(shown: Sequence[Slice], value: int) -> np.ndarray:
    """Up to 12 evenly chosen slices with the structure's outline, (H, W, 3) uint8."""
    chosen = [shown[place] for place in np.unique(np.linspace(0, len(shown) - 1, 12).round().astype(int))]
    height, width = chosen[0].mask.shape
    panel = (240, max(1, round(240 * width / height)), 3)
    drawn = [draw_overlay(one.picture, one.mask.astype(np.uint8) * value) for one in chosen]
    panels = np.stack([resize(one, panel, preserve_range=True, anti_aliasing=True) for one in drawn])
    return np.asarray(
        montage(panels, channel_axis=-1, padding_width=4, grid_shape=(math.ceil(len(panels) / 4), 4))
    ).astype(np.uint8)
