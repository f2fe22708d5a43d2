# SPDX-License-Identifier: Apache-2.0
"""One frame to mask and classes, without MONAI's dictionary transforms: they cost more than the compact network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bundle.engines import PromptedInferer
from bundle.geometry import UNKNOWN_SPACING, Geometry
from bundle.live.pictures import Frame, Result
from bundle.live.vote import TemporalVote
from bundle.tasks import Asked, Records
from bundle.tasks.decoding import activated, decoded
from bundle.transforms.plausibility import implausible_picture, withheld_note
from bundle.transforms.seeing.view import View, Viewer
from bundle.transforms.spacing import BY_USER
from bundle.vocabulary import PROMPTS, UNKNOWN, encode_prompt

LOOKED = 50
"""Frames after which a viewer looks again for what is seen: it takes longer than the network."""


class Letterbox:
    """A picture as the network sees it: longest side scaled to ``size``, black around it, normalized.

    The same as ``letterbox_transforms`` and ``normalize_transforms`` of configs/inference.yaml, but for colors, which
    are scaled with 8 bits.

    Args:
        size: side of the square, in pixels.
        mean: subtracted per channel, RGB in [0, 1].
        std: divided by per channel.
    """

    def __init__(self, size: int, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = size
        self.scale = 1 / (255 * torch.tensor(std).reshape(3, 1, 1))
        black = -torch.tensor(mean) / torch.tensor(std)
        self.black = black.reshape(1, 3, 1, 1).repeat(1, 1, size, size).contiguous(memory_format=torch.channels_last)

    def __call__(self, pixels: np.ndarray, places: Sequence[Geometry] = ()) -> Tensor:
        """(1, 3, P * size, size) float32, channels last, of (H, W) grey or (H, W, 3) blue, green, red uint8.

        Args:
            pixels: the picture.
            places: what of it is seen, each in a square of its own; none: all in one.
        """
        picture = torch.from_numpy(pixels)
        # Three channels are scaled as bytes in a tenth of the time that they take as floats; one channel gains nothing.
        picture = picture[None].float() if pixels.ndim == 2 else picture.permute(2, 0, 1)
        places = places or [Geometry(pixels.shape[:2], self.size)]
        squares = []
        for place in places:
            (down, across), (rows, columns) = place.seen, place.window
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            small = interpolate(picture[None, :, down, across], size=shape, mode="bilinear", antialias=True)[0].flip(0)
            square = self.black.clone()
            square[0, :, rows, columns].addcmul_(small.float(), self.scale)
            squares.append(square)
        return squares[0] if len(squares) == 1 else torch.cat(squares, 2)


class FrameSegmenter:
    """Segments and classifies frames one after the other, with a vote over the latest.

    Args:
        network: what has ``predict(image, prompt)``: a :class:`bundle.networks.UPerConvNeXt` or another runtime.
        inferer: keeps the masks to the structures of the prompted organ.
        letterbox: the way into the network.
        records: puts results in words; knows the tasks.
        prompts: position, nature, task; absent is unknown.
        positions: the position table.
        window: frames of the vote.
        check_images: whether frames that cannot be ultrasound get no result, see ``bundle.transforms.plausibility``.
        spacing: row and column in mm of pictures that do not say; nan: not known.
        viewer: decides what of a frame is seen, every :data:`LOOKED` frames and where their size changes; None: all.

    Raises:
        ValueError: when a prompt is in no table, or the window is smaller than 1.
    """

    def __init__(
        self,
        network: Any,
        *,
        inferer: PromptedInferer,
        letterbox: Letterbox,
        records: Records,
        prompts: Mapping[str, str],
        positions: Sequence[str],
        window: int,
        check_images: bool,
        spacing: tuple[float, float] = UNKNOWN_SPACING,
        viewer: Viewer | None = None,
    ) -> None:
        self.viewer, self.view, self.looked, self.seen_shape = viewer, View(), 0, (0, 0)
        self.check_images, self.spacing = check_images, spacing
        self.network, self.inferer, self.letterbox, self.records = network, inferer, letterbox, records
        self.prompts = {name: prompts[name] for name in PROMPTS if name in prompts}
        self.code = torch.tensor([encode_prompt(self.prompts, positions)])
        self.vote = TemporalVote(window)

    @torch.inference_mode()
    def values(self, pixels: np.ndarray, places: Sequence[Geometry] = ()) -> dict[str, Tensor]:
        """Task -> what the network says of one picture, (H, W) or (H, W, 3) uint8; (P, ...) of P > 1 places."""
        outputs = self.inferer(self.letterbox(pixels, places), self.network, prompt=self.code)
        first = {name: logits[0] for name, logits in outputs.items()}
        if len(places) <= 1:
            return activated(self.records.tasks, first)
        panels = [{name: logits[n] for name, logits in first.items()} for n in range(len(places))]
        found = [activated(self.records.tasks, panel) for panel in panels]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    def _seen(self, pixels: np.ndarray, place: Geometry) -> tuple[np.ndarray, list[Geometry]]:
        """What is seen of a picture, and where each part of it is."""
        if self.viewer is None or not self.viewer.active:
            return pixels, [place]
        image = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1).float() / 255
        if self.looked % LOOKED == 0 or self.seen_shape != place.shape:
            self.view, self.looked, self.seen_shape = self.viewer(image), 0, place.shape
        self.looked += 1
        seen = (self.view.of(image) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        parts = [replace(place, part=window) for window in self.view.windows] or [place]
        return seen[..., 0] if pixels.ndim == 2 else seen, parts

    def _place(self, frame: Frame) -> Geometry:
        picture = frame.picture
        shape = (int(picture.pixels.shape[0]), int(picture.pixels.shape[1]))
        known = (picture.spacing, picture.source, picture.zones)
        place = Geometry(shape, self.letterbox.size, *known, picture=picture.pixels)
        return place if place.known else replace(place, spacing=self.spacing, source=BY_USER)

    def __call__(self, frame: Frame) -> Result:
        """What was found in the frame, on its own grid; nothing where it cannot be ultrasound."""
        start = time.perf_counter()
        pixels, tasks = frame.picture.pixels, self.records.tasks
        reason = implausible_picture(pixels) if self.check_images else ""
        place = self._place(frame)
        asked = Asked(self.prompts.get("position", UNKNOWN))
        if reason:  # the network does not see it, and it has no part in the vote
            found = {task.name: task.withheld(place) for task in tasks}
        else:
            seen, places = self._seen(pixels, place)
            windows = (n for window in self.view.windows for n in window)
            values = self.vote.add(self.values(seen, places), (*place.shape, *windows))
            panels = [{name: v[n] for name, v in values.items()} for n in range(len(places))]
            found = decoded(tasks, panels if len(places) > 1 else [values], places, asked)
        item = {"found": found, "geometry": place, "asked": asked, "withheld": bool(reason), **self.prompts}
        record = self.records.result(item)
        said = [withheld_note(reason), *frame.picture.notes] if reason else [*frame.picture.notes, record["notes"]]
        record["notes"] = "; ".join(filter(None, said))
        end = time.perf_counter()
        return Result(frame, found, record, work=end - start, latency=end - frame.captured)
