# SPDX-License-Identifier: Apache-2.0
"""What scanners burn into the picture: text, caliper crosses, a depth scale."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Bytes = NDArray[np.uint8]

WORDS = ("GEN", "RES", "PEN", "HAR", "2D", "B", "LT", "RT", "TRANS", "SAG", "MI 0.8", "TIs 0.2", "DR 60", "FR 28Hz")


def burn_in(image: Bytes, *, mask: Bytes, spacing: float, view: Generator) -> tuple[Bytes, list[tuple[int, int]]]:
    """The image with none, some or all of the marks, and the places (x, y) of two calipers, if there are.

    Calipers lie at a structure as often as where there is none.

    Args:
        image: (height, width) grey values.
        mask: (height, width), 0 is the background.
        spacing: mm per pixel.
        view: the random numbers of this image.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    text, scale, calipers = view.random(3) < (0.35, 0.3, 0.2)
    if text:
        _text(draw, size=picture.size, view=view)
    if scale:
        step = 5.0 / spacing
        for tick in range(1, int(picture.height / step)):
            x, y = picture.width - 1, round(tick * step)
            draw.line([(x - (6 if tick % 2 else 3), y), (x, y)], fill=180)
    places = _caliper_places(mask, view) if calipers else []
    if calipers:
        for x, y in places:
            draw.line([(x - 4, y), (x + 4, y)], fill=235)
            draw.line([(x, y - 4), (x, y + 4)], fill=235)
    return np.asarray(picture), places


def _text(draw: ImageDraw.ImageDraw, *, size: tuple[int, int], view: Generator) -> None:
    left = int(view.integers(3, max(4, size[0] - 70)))
    top = int(view.choice([3, size[1] - 30]))
    fill = int(view.integers(150, 255))
    for line in range(view.integers(1, 3)):
        words = " ".join(view.choice(WORDS, size=2, replace=False))
        draw.text((left, top + 12 * line), words, fill=fill)


def _caliper_places(mask: Bytes, view: Generator) -> list[tuple[int, int]]:
    """Two ends of a structure, or of a stretch anywhere in an image without one."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        y, x = (view.uniform(0.3, 0.7, 2) * mask.shape).astype(int)
        half = int(view.integers(20, 50))
        return [(int(x) - half, int(y)), (int(x) + half, int(y))]
    order = columns if view.random() < 0.5 else rows
    return [(int(columns[i]), int(rows[i])) for i in (int(order.argmin()), int(order.argmax()))]
