# SPDX-License-Identifier: Apache-2.0
"""Drawn images: speckle as ultrasound shows it, and pictures that are no ultrasound."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter


def as_image(pixels: np.ndarray) -> torch.Tensor:
    """Pixels (H, W) or (H, W, 3) uint8 as the loader gives them, (3, H, W) in [0, 1]; gray is one channel."""
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return (torch.from_numpy(np.ascontiguousarray(planes)).float() / 255).expand(3, -1, -1)


def page(shape: tuple[int, int], *, paper: int = 255, noise: float = 0) -> np.ndarray:
    """Lines of text, dark on paper."""
    image = Image.new("L", shape[::-1], paper)
    for row in range(4, shape[0] - 8, 20):
        ImageDraw.Draw(image).text((4, row), "one day before they arrive the boats ask for a berth " * 4, fill=20)
    grain = np.random.default_rng(0).normal(size=shape) * noise
    return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)


def landscape(height: int, width: int) -> np.ndarray:
    """Sky, sun and grass, (H, W, 3)."""
    y, x = np.mgrid[:height, :width] / np.array([height - 1, width - 1]).reshape(2, 1, 1)
    sky = np.stack([0.45 + 0.2 * y, 0.6 + 0.2 * y, 0.95 - 0.1 * y], -1)
    sky[y > 0.6 + 0.05 * np.sin(9 * x)] = (0.25, 0.5, 0.2)
    sky[(y - 0.25) ** 2 + (x - 0.7) ** 2 < 0.01] = (1.0, 0.9, 0.5)
    return np.asarray(255 * sky).astype(np.uint8)


def gradient(height: int, width: int) -> np.ndarray:
    """Colors that change evenly, (H, W, 3)."""
    y, x = np.mgrid[:height, :width] / np.array([height - 1, width - 1]).reshape(2, 1, 1)
    return np.asarray(255 * np.stack([x, 0.3 + 0.5 * y, 1 - 0.8 * y * x], -1)).astype(np.uint8)


def speckle(height: int = 120, width: int = 160) -> np.ndarray:
    """Gray speckle with a dark disk in it, (H, W)."""
    random = np.random.default_rng(0)
    grain = np.hypot(*(gaussian_filter(random.normal(size=(height, width)), 1) for _ in range(2)))
    y, x = np.mgrid[:height, :width]
    grain[np.hypot(y - height / 2, x - width / 2) < height / 5] *= 0.3
    return np.asarray(np.clip(300 * grain, 0, 255)).astype(np.uint8)


def doppler(image: torch.Tensor) -> torch.Tensor:
    """The image with red and blue flow in a box of half its height and width."""
    field = gaussian_filter(np.random.default_rng(0).normal(size=image.shape[1:]), max(image.shape[1:]) / 32)
    box = torch.zeros(image.shape[1:], dtype=torch.bool)
    rows, columns = (slice(n // 4, n // 4 + n // 2) for n in image.shape[1:])
    box[rows, columns] = True
    flow, colored = torch.from_numpy(field / field.std()), image.clone()
    colored[:, box & (flow > 0.7)] = torch.tensor([1.0, 0.4, 0.0])[:, None]
    colored[:, box & (flow < -0.7)] = torch.tensor([0.0, 0.4, 1.0])[:, None]
    return colored


def tinted(image: torch.Tensor) -> torch.Tensor:
    return image * torch.tensor([1.0, 0.75, 0.4])[:, None, None]


def screen(image: torch.Tensor) -> torch.Tensor:
    """The image within a scanner's black screen with text, scales and a bar, (3, H + 40, W + 120)."""
    height, width = image.shape[1:]
    frame = Image.new("RGB", (width + 120, height + 40))
    pen = ImageDraw.Draw(frame)
    pen.rectangle((0, 0, width + 120, 14), fill=(40, 60, 90))
    for row in range(0, height + 40, 14):
        pen.text((2, row), f"FR {row} Hz D 12.3 cm", fill=(220, 220, 220))
        pen.line((110, row, 116, row), fill=(255, 255, 255))
    shown = as_image(np.asarray(frame)).clone()
    shown[:, 20:-20, 120:] = image
    return shown
