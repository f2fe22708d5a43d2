# SPDX-License-Identifier: Apache-2.0
"""Images that cannot be ultrasound: blank ones, smooth ones, pages of text, photographs in color.

Fixed measures, no training. They are made to let every ultrasound image pass; a gray photograph passes too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from bundle.transforms.items import add_note
from bundle.vocabulary import NOT_ULTRASOUND, switch

# Values are gray or color values in [0, 1], shares are of the pixels. "Ultrasound" names the most extreme value of the
# 1765 training images of the public sets and of the DICOM files, clips and stills beside them.
SAMPLES = 128  # pixels of the longest side that are looked at, evenly spaced: one scale for all sizes
MIN_SIDE = 8  # of the sample, in pixels; a smaller one is judged only by its range of values
MAX_BLANK = 2 / 255  # range of values of a blank image; ultrasound: 0.35 and more
BRIGHT = 0.2  # values above are looked at for grain; below them 8 bits leave too few steps
MIN_BRIGHT = 0.05  # share of bright pixels from which on grain is judged
SMOOTH = 2.1 / 255  # second difference of three samples in a row that rounding to 8 bits alone can make
MAX_SMOOTH = 0.9  # share of the bright pixels without grain; ultrasound: up to 0.49
WHITE = 0.9  # median value of a white page; ultrasound: up to 0.63
PAPER = 0.5  # median value from which on an image may be a gray page with text
MAX_INK = 0.15  # share of pixels that are not bright on such a page
MAX_STROKES = 0.2  # balance of dark against bright detail, -1 to 1; ultrasound as bright as paper: up to 0.04
STROKES = 0.1  # share of the pixels that hold most of a text's detail
MIN_SPARSE = 0.6  # share of the detail in them; text: 0.64 and more, even speckle: up to 0.56
COLORED = 0.1  # difference of two channels from which on a pixel is colored
MAX_COLORED = 0.4  # share of colored pixels; ultrasound: up to 0.16, and all where the scanner tints its grays
OFF_TINT = 0.1  # distance of a color from the tint that its gray has in this image
MAX_OFF_TINT = 0.12  # share of pixels off the tint; ultrasound that was tinted and stored as JPEG: up to 0.10
MAX_JUMP = 0.07  # median distance of neighbors' colors; photographs: up to 0.03, noise in each channel: 0.08 to 0.65
TINT_STEPS = 16  # grays that have a tint each


def implausible(image: torch.Tensor) -> str:
    """Why an image (3, H, W) in [0, 1] cannot be ultrasound, in words; "" where nothing speaks against it."""
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    step = max(1, round(max(plain.shape[1:]) / SAMPLES))
    shown = plain[:1] if plain.stride(0) == 0 else plain
    return _reason(shown[:, ::step, ::step].numpy(), whole=lambda: _range(shown.numpy()))


def withheld_note(reason: str) -> str:
    """The note on an image whose result is left out."""
    return f"{NOT_ULTRASOUND} ({reason}); nothing is reported"


def implausible_picture(pixels: np.ndarray) -> str:
    """The same of 8 bits, (H, W) gray or (H, W, 3) colors in OpenCV's order: blue, green, red."""
    step = max(1, round(max(pixels.shape[:2]) / SAMPLES))
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[::-1]
    sample = channels[:, ::step, ::step].astype(np.float32, order="C") / 255  # reductions are slow in other orders
    return _reason(sample, whole=lambda: _range(channels) / 255)


def _reason(sample: np.ndarray, *, whole: Callable[[], float]) -> str:
    """See :func:`implausible`.

    Args:
        sample: evenly spaced pixels (C, H, W) of the image.
        whole: gives the range of values of all its pixels.
    """
    if _range(sample) <= MAX_BLANK and whole() <= MAX_BLANK:
        return "one value throughout"
    if min(sample.shape[1:]) < MIN_SIDE:
        return ""
    gray = sample.mean(0)
    if (share := _smooth_share(gray)) > MAX_SMOOTH:
        return f"{share:.0%} of the bright pixels without grain"
    if (median := np.median(gray)) > WHITE:
        return "more than half of it is white"
    if median > PAPER and (gray < BRIGHT).mean() < MAX_INK and _has_strokes(gray):
        return "dark strokes on a bright ground, as on a page of text"
    if len(sample) == 3 and (share := _colored_share(sample)) > MAX_COLORED and _is_painted(sample, gray):
        return f"{share:.0%} of the pixels in colors, as in a photograph"
    return ""


def _range(pixels: np.ndarray) -> float:
    """The widest range of a channel's values, of pixels (C, H, W)."""
    return float((pixels.max((1, 2)) - pixels.min((1, 2))).max())


def _second_differences(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Across and down, (H - 2, W - 2) each: zero where values are constant or rise evenly, positive in a dark line."""
    middle = 2 * gray[1:-1, 1:-1]
    return gray[1:-1, :-2] + gray[1:-1, 2:] - middle, gray[:-2, 1:-1] + gray[2:, 1:-1] - middle


def _smooth_share(gray: np.ndarray) -> float:
    """Share of the bright pixels that differ from their neighbors by an even slope at most; 0 where few are bright."""
    bright = gray[1:-1, 1:-1] > BRIGHT
    if bright.mean() < MIN_BRIGHT:
        return 0.0
    across, down = _second_differences(gray)
    return float(((np.abs(across) <= SMOOTH) & (np.abs(down) <= SMOOTH))[bright].mean())


def _has_strokes(gray: np.ndarray) -> bool:
    """Whether fine detail is darker than its surroundings, as ink and unlike echoes, and sparse, unlike speckle."""
    across, down = _second_differences(gray)
    detail = (across + down).ravel()
    energy = detail**2
    total = max(float(energy.sum()), 1e-9)
    strongest = max(1, round(STROKES * energy.size))
    sparse = np.partition(energy, -strongest)[-strongest:].sum() / total
    return bool((np.sign(detail) * energy).sum() / total > MAX_STROKES and sparse > MIN_SPARSE)


def _colored_share(sample: np.ndarray) -> float:
    return float((sample.max(0) - sample.min(0) > COLORED).mean())


def _is_painted(sample: np.ndarray, gray: np.ndarray) -> bool:
    """Whether colors go on from pixel to pixel, unlike noise, and are not those of one color map.

    A scanner shows grays through one color map, whichever it is; only Doppler and marks depart from it.
    """
    opponent = np.stack([sample[0] - sample[1], (sample[0] + sample[1]) / 2 - sample[2]])
    jumps = np.hypot(*np.diff(opponent[:, ::2], axis=2))
    return bool(np.median(jumps) < MAX_JUMP) and _off_tint(opponent[:, ::2, ::2], gray[::2, ::2]) > MAX_OFF_TINT


def _off_tint(opponent: np.ndarray, gray: np.ndarray) -> float:
    """Share of pixels whose color (2, H, W) is not that which most pixels of the same gray have."""
    steps = np.minimum((gray.ravel() * TINT_STEPS).astype(int), TINT_STEPS - 1)
    pixels = opponent.reshape(2, -1).T
    off = 0
    for step in np.unique(steps):
        colors = pixels[steps == step]
        off += int((np.hypot(*(colors - np.median(colors, 0)).T) > OFF_TINT).sum())
    return off / len(pixels)


class CheckPlausibled(MapTransform):
    """Notes on a loaded image that it does not look like ultrasound, with the reason, see ``implausible``.

    ``withheld`` says whether its result is to be left out: not where a user guides, whose word counts.

    Args:
        keys: image (3, H, W) in [0, 1] at its native size, a MetaTensor.
        enabled: true or false; in words too, see ``switch``. False: every image passes.

    Raises:
        ValueError: when ``enabled`` is something else.
    """

    def __init__(self, keys: KeysCollection = "image", *, enabled: bool | str = True) -> None:
        super().__init__(keys)
        self.enabled = switch(enabled, "check_images")

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``withheld``."""
        item = dict(data)
        item["withheld"] = False
        for key in self.key_iterator(item):
            if self.enabled and (reason := implausible(item[key])):
                item["withheld"] = not item.get("guidance")
                add_note(item[key], withheld_note(reason) if item["withheld"] else f"{NOT_ULTRASOUND} ({reason})")
        return item
