# SPDX-License-Identifier: Apache-2.0
"""One frame to mask and classes, without MONAI's dictionary transforms: they cost more than the compact network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn.functional import interpolate

from bundle.engines import PromptedInferer
from bundle.live.pictures import Frame, Probabilities, Result, cv2
from bundle.live.vote import TemporalVote
from bundle.transforms import DescribePredictiond, WithholdImplausible
from bundle.transforms.letterbox import place_in_square
from bundle.transforms.plausibility import implausible_picture, withheld_note
from bundle.vocabulary import PROMPTS, encode_prompt


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

    def place(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Rows and columns of the square that a picture of a shape (H, W) fills."""
        return place_in_square(shape, self.size)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """(1, 3, size, size) float32, channels last, of (H, W) grey or (H, W, 3) blue, green, red uint8."""
        rows, columns = self.place(pixels.shape[:2])
        picture = torch.from_numpy(pixels)
        # Three channels are scaled as bytes in a tenth of the time that they take as floats; one channel gains nothing.
        picture = picture[None].float() if pixels.ndim == 2 else picture.permute(2, 0, 1)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        small = interpolate(picture[None], size=shape, mode="bilinear", antialias=True)[0].flip(0)
        square = self.black.clone()
        square[0, :, rows, columns].addcmul_(small.float(), self.scale)
        return square


def restore(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The most probable structure on the picture's own grid, of probabilities scaled to it bilinearly.

    Interpolation is linear, so a structure can only win where its probability exceeds the background's in one of the
    four neighbors. Structures that nowhere do are not scaled at all, the others as their lead over the background.

    Args:
        probabilities: (C, h, w) float32, the background first.
        shape: (H, W) of the picture.

    Returns:
        (H, W) uint8 structure indices.
    """
    lead = probabilities[1:] - probabilities[0]
    mask = np.zeros(shape, np.uint8)
    best = np.zeros(0, np.float32)
    for index in np.flatnonzero(lead.max(axis=(1, 2)) > 0):
        large = cv2.resize(lead[index], shape[::-1], interpolation=cv2.INTER_LINEAR)
        wins = large > (best if best.size else 0)
        np.putmask(mask, wins, index + 1)
        best = np.maximum(best, large) if best.size else np.maximum(large, 0)
    return mask


class FrameSegmenter:
    """Segments and classifies frames one after the other, with a vote over the latest.

    Args:
        network: what has ``predict(image, prompt)``: a :class:`bundle.networks.UPerConvNeXt` or another runtime.
        inferer: keeps the masks to the structures of the prompted organ.
        letterbox: the way into the network.
        describe: puts results in words.
        prompts: position, nature, task; absent is unknown.
        positions: the position table.
        window: frames of the vote.
        check_images: whether frames that cannot be ultrasound get no result, see ``bundle.transforms.plausibility``.

    Raises:
        ValueError: when a prompt is in no table, or the window is smaller than 1.
    """

    def __init__(
        self,
        network: Any,
        *,
        inferer: PromptedInferer,
        letterbox: Letterbox,
        describe: DescribePredictiond,
        prompts: Mapping[str, str],
        positions: Sequence[str],
        window: int,
        check_images: bool,
    ) -> None:
        self.check_images = check_images
        self.network, self.inferer, self.letterbox, self.describe = network, inferer, letterbox, describe
        self.prompts = {name: prompts[name] for name in PROMPTS if name in prompts}
        self.code = torch.tensor([encode_prompt(self.prompts, positions)])
        self.vote, self.withhold = TemporalVote(window), WithholdImplausible()

    @torch.inference_mode()
    def probabilities(self, pixels: np.ndarray) -> Probabilities:
        """What the network says of one picture, (H, W) or (H, W, 3) uint8."""
        outputs = self.inferer(self.letterbox(pixels), self.network, prompt=self.code)
        rows, columns = self.letterbox.place(pixels.shape[:2])
        seg = outputs["seg"][0, :, rows, columns].float().softmax(0).contiguous().numpy()
        classes = {
            name.removeprefix("cls_"): logits[0].float().softmax(0).numpy()
            for name, logits in outputs.items()
            if name.startswith("cls_")
        }
        return Probabilities(seg, classes)

    def _voted(self, pixels: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Mask (H, W) and class probabilities of the vote with one more picture."""
        shape = (int(pixels.shape[0]), int(pixels.shape[1]))
        mean = self.vote.add(self.probabilities(pixels), shape)
        return restore(mean.seg, shape), mean.classes

    def _withheld(self, pixels: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Zeros, for a picture that the network does not see; it has no part in the vote."""
        classes = {name: np.zeros(len(classes)) for name, classes in self.describe.label_sets.items()}
        return np.zeros(pixels.shape[:2], np.uint8), classes

    def __call__(self, frame: Frame) -> Result:
        """The frame's mask on its own grid, areas and classes; none of them where it cannot be ultrasound."""
        start = time.perf_counter()
        pixels = frame.picture.pixels
        reason = implausible_picture(pixels) if self.check_images else ""
        mask, classes = self._withheld(pixels) if reason else self._voted(pixels)
        item = {"pred": MetaTensor(torch.from_numpy(mask)), "probabilities": classes, "withheld": bool(reason)}
        found = self.withhold(self.describe({**self.prompts, **item, "spacing": frame.picture.spacing}))["result"]
        if reason:
            found["notes"] = withheld_note(reason)
        end = time.perf_counter()
        return Result(frame, mask, found, work=end - start, latency=end - frame.captured)
