# SPDX-License-Identifier: Apache-2.0
"""What a scanner writes and draws into a frame: lines of text, colored marks and calipers; and frames without them.

Text is found by the detector of RapidOCR (PP-OCR, ``pip install -e ".[text]"``), whose model lies in its wheel.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import
from scipy import ndimage
from skimage.draw import polygon
from skimage.filters import threshold_otsu
from skimage.morphology import disk, white_tophat
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

RapidOCR, HAS_RAPIDOCR = optional_import("rapidocr", name="RapidOCR")

# Values are gray values in [0, 1], lengths pixels of the frame.
TALLEST = 0.1  # height of a line of text, as a share of the frame's shorter side, at most
LETTERS = 0.65  # value of letters, as a share of the brightest in their box, at least
COLORED = 0.25  # difference of two channels from which on a pixel is colored
THICK = 3.0  # half the width of a colored line at most: Doppler makes blobs
BRIGHT = 0.6  # of calipers, at least
CONTRAST = 0.3  # of calipers to what is beside their lines, at least
CROSS = (7, 25)  # shortest and longest side of a caliper
SQUARE = 1.35  # ratio of a caliper's sides at most
SPARSE = 0.5  # share of its box that a caliper fills at most: two lines that cross
ALIKE = 0.6  # overlap of a caliper with its mirror images at least
MARGIN = 1  # by which what is found is widened: edges are blurred


class TextFinder:
    """Finds lines of text; for use by several threads, which take turns.

    Raises:
        ImportError: when RapidOCR is not installed.
    """

    def __init__(self) -> None:
        if not HAS_RAPIDOCR:
            raise ImportError(
                'mask_text needs RapidOCR, which is not installed; pip install -e ".[text]", or leave it out.'
            )
        self.detector: Any = None
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # loader processes open their own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def boxes(self, image: Tensor) -> list[np.ndarray]:
        """Corners (4, 2), row and column, of each line of text in an image (C, H, W) in [0, 1]."""
        planes = image.expand(3, -1, -1) if len(image) == 1 else image
        pixels = planes.flip(0).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        with self.lock:
            if self.detector is None:
                threads = {"EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads()}
                only = {"Global.use_cls": False, "Global.use_rec": False, "Global.log_level": "error"}
                self.detector = RapidOCR(params={**only, **threads})
            found = self.detector(pixels, use_det=True, use_cls=False, use_rec=False).boxes
        corners = [] if found is None else [np.asarray(box)[:, ::-1] for box in found]
        return [box for box in corners if _height(box) <= TALLEST * min(pixels.shape[:2])]

    def __call__(self, image: Tensor) -> np.ndarray:
        """Pixels in boxes of text, (H, W) bool."""
        inside = np.zeros(tuple(image.shape[1:]), bool)
        for box in self.boxes(image):
            inside[polygon(box[:, 0], box[:, 1], inside.shape)] = True
        return inside


def _height(box: np.ndarray) -> float:
    """The shorter side of a box; lines of text are written along their longer one."""
    sides = np.linalg.norm(box - np.roll(box, 1, axis=0), axis=1)
    return float(sides.min())


def strokes(image: Tensor, boxes: np.ndarray) -> np.ndarray:
    """Pixels of letters, (H, W) bool: the bright ones of each box of text (Otsu's threshold, or higher).

    Args:
        image: (C, H, W) in [0, 1].
        boxes: (H, W) bool, of :class:`TextFinder`.
    """
    gray, found = image.amax(0).numpy(), np.zeros_like(boxes)
    labels, _ = ndimage.label(boxes)
    for number, place in enumerate(ndimage.find_objects(labels)):
        inside = labels[place] == number + 1
        values = gray[place][inside]
        if values.max() > values.min():
            found[place] |= inside & (gray[place] > max(threshold_otsu(values), LETTERS * values.max()))
    return found


def marks(image: Tensor) -> np.ndarray:
    """Pixels of thin colored lines and of calipers, crosses upright or diagonal, (H, W) bool.

    Args:
        image: (C, H, W) in [0, 1].
    """
    colored = ((image.amax(0) - image.amin(0)) > COLORED).numpy()
    labels, count = ndimage.label(colored, np.ones((3, 3)))
    found = np.zeros_like(colored)
    if count:
        thickest = ndimage.maximum(ndimage.distance_transform_edt(colored), labels, np.arange(1, count + 1))
        found = np.isin(labels, 1 + np.flatnonzero(np.asarray(thickest) < THICK))
    gray = image.amax(0).numpy()
    bright = (gray > BRIGHT) & (white_tophat(gray, disk(3)) > CONTRAST)
    labels, _ = ndimage.label(bright, np.ones((3, 3)))
    for number, place in enumerate(ndimage.find_objects(labels)):
        if _is_cross(part := labels[place] == number + 1):
            found[place] |= part
    return found


def _is_cross(part: np.ndarray) -> bool:
    """Whether a connected part (h, w) is two lines that cross in the middle: alike from all sides, and sparse."""
    short, long = sorted(part.shape)
    if not CROSS[0] <= long <= CROSS[1] or long > SQUARE * short or part.mean() > SPARSE:
        return False
    mirrored = (part[::-1], part[:, ::-1])
    overlaps = [(part & other).sum() / (part | other).sum() for other in mirrored]
    middle = part[short // 2 - 1 : short // 2 + 2, long // 2 - 1 : long // 2 + 2]
    return min(overlaps) >= ALIKE and bool(middle.any())


def inpainted(image: Tensor, mask: np.ndarray) -> Tensor:
    """The image (C, H, W) with what surrounds it in place of the masked pixels, by biharmonic functions.

    Reference: Damelin and Hoang, "On surface completion and image inpainting by biharmonic functions", 2018.
    """
    if not mask.any():
        return image
    wider = ndimage.binary_dilation(mask, iterations=MARGIN)
    gray = image.stride(0) == 0
    pixels = (image[:1] if gray else image).permute(1, 2, 0).numpy()
    filled = np.clip(inpaint_biharmonic(pixels, wider, split_into_regions=True, channel_axis=-1), 0, 1)
    planes = torch.from_numpy(np.ascontiguousarray(filled.transpose(2, 0, 1), np.float32))
    return planes.expand(len(image), -1, -1) if gray else planes
