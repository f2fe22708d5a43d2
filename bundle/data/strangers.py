# SPDX-License-Identifier: Apache-2.0
"""Images that show none of the organs: photographs, other modalities, text, blank and patterned ones.

The photographs are parts of those that installed packages ship (scikit-image, scikit-learn, Matplotlib), the other
modalities pydicom's test files; the rest is drawn. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from bundle.data.known_sets import PublicSet
from bundle.data.written import write_picture
from bundle.files import OutputFolder
from bundle.transforms.readers import read_file
from bundle.vocabulary import NO_ORGAN, UNKNOWN

DATASET = "NotUltrasound"

PHOTOGRAPHS = {
    "skimage": (
        "data/astronaut.png data/brick.png data/camera.png data/cell.png data/chelsea.png data/clock_motion.png"
        " data/coffee.png data/coins.png data/color.png data/grass.png data/gravel.png data/horse.png data/ihc.png"
        " data/hubble_deep_field.jpg data/microaneurysms.png data/moon.png data/motorcycle_left.png data/page.png"
        " data/phantom.png data/retina.jpg data/rocket.jpg data/text.png data/logo.png"
    ),
    "sklearn": "datasets/images/china.jpg datasets/images/flower.jpg",
    "matplotlib": "mpl-data/sample_data/grace_hopper.jpg mpl-data/sample_data/Minduka_Present_Blue_Pack.png",
    "pydicom": "data/test_files/CT_small.dcm data/test_files/MR_small.dcm data/test_files/liver_1frame.dcm",
}
"""Package -> files in it, as far as they are there."""

STYLES = 12
"""Of each kind of drawing; those of one style stay in one split."""

_WORDS = ("patient", "report", "gain", "depth", "mean", "left", "right", "normal", "image", "of", "the", "with", "not")


def sources() -> dict[str, Path]:
    """Name -> file of the pictures that installed packages ship."""
    found = {}
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        root = Path(spec.origin).parent if spec is not None and spec.origin else None
        for name in names.split() if root is not None else ():
            path = Path(str(root), name)
            if path.is_file():
                found[f"{package}_{path.stem}"] = path
    return found


def make_strangers(folder: Path, *, count: int, seed: int) -> PublicSet:
    """Writes ``count`` images into a folder and gives them as a data set of no organ.

    Parts of one picture, and images drawn by one recipe with one style, are one patient: they stay in one split.

    Args:
        folder: made when absent; only files of an earlier run are replaced.
        count: number of images.
        seed: of the choice and the drawings.

    Raises:
        FileExistsError: when a file that no earlier run wrote would be replaced.
    """
    output = OutputFolder(folder, option="--output")
    made = _made(np.random.default_rng(seed), count)
    items: list[dict[str, Any]] = []
    for number, (source, pixels) in enumerate(made):
        path = write_picture(output, f"{number:04d}_{source}", pixels)
        items.append({"image": path, "dataset": DATASET, "patient": f"{DATASET}/{source}"})
    entry = {
        "position": UNKNOWN,
        "nature": UNKNOWN,
        "organ": NO_ORGAN,
        "source": f"pictures of installed packages, and drawings; bundle.data.strangers, seed {seed}",
    }
    return PublicSet(datasets={DATASET: entry}, items=items)


def _made(rng: Generator, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name of the source and picture (H, W) or (H, W, 3), uint8."""
    pictures = sources()
    drawn: dict[str, Callable[[Generator, tuple[int, int]], np.ndarray]] = {
        "page": _page,
        "blank": _blank,
        "ramp": _ramp,
        "noise": _noise,
        "shapes": _shapes,
        "plot": _plot,
    }
    loaded = {name: _loaded(path) for name, path in pictures.items()}
    for number in range(count):
        size = (int(rng.integers(160, 700)), int(rng.integers(160, 700)))
        if loaded and number % 10 < 7:
            name = list(loaded)[int(rng.integers(len(loaded)))]
            yield name, _part(rng, loaded[name], size)
        else:
            name = list(drawn)[int(rng.integers(len(drawn)))]
            style = int(rng.integers(STYLES))
            yield f"{name}{style}", drawn[name](np.random.default_rng((style, number)), size)


def _loaded(path: Path) -> np.ndarray:
    if path.suffix == ".dcm":
        pixels = read_file(str(path)).pixels.astype(np.float32)
        low, high = np.percentile(pixels, (0.5, 99.5))
        unit = (pixels - low) / max(float(high - low), 1.0)
        return np.asarray((unit * 255).clip(0, 255).astype(np.uint8))
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _part(rng: Generator, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A random part of a picture, gray two times of three, at a size."""
    share = rng.uniform(0.4, 1.0)
    height, width = (max(16, int(n * share)) for n in pixels.shape[:2])
    height, width = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    top, left = (int(rng.integers(0, n - m + 1)) for n, m in zip(pixels.shape, (height, width), strict=False))
    image = Image.fromarray(pixels[top : top + height, left : left + width]).resize(size)
    if rng.random() < 2 / 3:
        image = image.convert("L")
    return np.asarray(image)


def _page(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    dark = rng.random() < 0.3
    image = Image.new("L", size, 20 if dark else int(rng.integers(200, 256)))
    draw = ImageDraw.Draw(image)
    for top in range(12, size[1] - 12, int(rng.integers(12, 26))):
        words = " ".join(rng.choice(_WORDS, size=int(rng.integers(2, 12))))
        draw.text((int(rng.integers(6, 40)), top), words, fill=230 if dark else int(rng.integers(0, 90)))
    return np.asarray(image)


def _blank(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    return np.full(size[::-1], int(rng.integers(256)), np.uint8)


def _ramp(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    turn = rng.uniform(0, 6.3)
    ramp = rows / size[1] * np.cos(turn) + columns / size[0] * np.sin(turn)
    return np.asarray((ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6) * 255).astype(np.uint8)


def _noise(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    coarse = tuple(max(2, n // int(rng.choice([1, 2, 4, 16, 60]))) for n in size[::-1])
    pixels = rng.rayleigh(60, coarse) if rng.random() < 0.5 else rng.uniform(0, 255, coarse)
    return np.asarray(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(size))


def _shapes(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    image = Image.new("L", size, int(rng.integers(256)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 12))):
        x, y = np.sort(rng.integers(0, size[0], 2)), np.sort(rng.integers(0, size[1], 2))
        box = (int(x[0]), int(y[0]), int(x[1]) + 1, int(y[1]) + 1)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=int(rng.integers(256)))
    return np.asarray(image)


def _plot(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    image = Image.new("RGB", size, "white" if rng.random() < 0.5 else "black")
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        height = np.cumsum(rng.standard_normal(60)) * size[1] / 40 + size[1] / 2
        line = [(int(n * size[0] / 60), int(h)) for n, h in enumerate(height)]
        draw.line(line, fill=tuple(int(v) for v in rng.integers(0, 256, 3)), width=int(rng.integers(1, 4)))
    return np.asarray(image)
