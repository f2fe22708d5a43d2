# SPDX-License-Identifier: Apache-2.0
"""What of a frame the network sees with --crop_sector, --split_panels and --mask_text, in pictures and figures.

  python scripts/frame_view.py IMAGES --output_dir view
  python scripts/frame_view.py IMAGES --frames 25 --masks output
  python scripts/frame_view.py --phantoms 20

IMAGES is a folder or a file, as for inference. The first command draws the sectors (green, red) and the text, marks and
calipers (yellow) into NAME_view.png, and prints a line for each frame. The second counts the pixels of an inference's
masks that lie outside of the sectors and on letters. The third scores made-up screens with known truth.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.phantom.frames import KINDS, make_screen  # noqa: E402
from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.live.frames import FrameReader, list_frames  # noqa: E402
from bundle.transforms import LoadUltrasoundd  # noqa: E402
from bundle.transforms.seeing.sector import Sector, find_sectors  # noqa: E402
from bundle.transforms.seeing.text import TextFinder, marks, strokes  # noqa: E402

COLORS = ((0, 255, 0), (255, 60, 60))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="folder or file")
    parser.add_argument("--frames", type=int, default=1, help="of clips: every n-th one (default %(default)s)")
    parser.add_argument("--output_dir", type=Path, help="folder for pictures; none are drawn without it")
    parser.add_argument("--masks", type=Path, help="folder of an inference on the images, whose masks are counted")
    parser.add_argument("--phantoms", type=int, default=0, help="score this many made-up screens of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up screens (default %(default)s)")
    parser.add_argument("--text", action=argparse.BooleanOptionalAction, default=True, help="look for text")
    args = parser.parse_args(arguments)
    if (args.images is None) == (args.phantoms < 1):
        parser.error("give images, or --phantoms 1 or more")
    try:
        finder = TextFinder() if args.text else None
        return _score(args, finder) if args.images is None else _show(args, finder)
    except Exception as error:
        return failed(error)


def _show(args: argparse.Namespace, finder: TextFinder | None) -> int:
    folder = OutputFolder(args.output_dir) if args.output_dir else None
    totals = [0, 0, 0]
    read, load, masks = FrameReader(), LoadUltrasoundd(), _masks(args.masks)
    print("frame, sectors (rows, columns), confidence, pixels of text and marks" + _counted(args.masks))
    for item in list_frames(args.images, every=args.frames):
        file = os.path.relpath(item["image"], args.images) if args.images.is_dir() else args.images.name
        name = _name(file, item.get("frame"))
        try:
            image: Tensor = load(read(item))["image"].as_tensor()
        except (ImportError, OSError, ValueError) as error:
            print(f"{name}: {error}")
            continue
        sectors = find_sectors(image)
        letters = marks(image) if finder is None else strokes(image, finder(image)) | marks(image)
        boxes = " ".join(f"{s.box[0]}-{s.box[2]},{s.box[1]}-{s.box[3]} ({s.confidence:.2f})" for s in sectors) or "none"
        counts = _outside(masks[name], sectors, letters) if name in masks else []
        totals = [a + b for a, b in zip(totals, counts, strict=True)] if counts else totals
        print(f"{name}: {boxes}; {letters.sum()}" + "".join(f"; {count}" for count in counts))
        if folder is not None:
            draw = functools.partial(_draw, image=image, sectors=sectors, letters=letters)
            folder.write(f"{name}_view.png", draw)
    if masks:
        print("sum: " + "; ".join(map(str, totals)))
    return 0


def _name(file: str, frame: int | None) -> str:
    return file if frame is None else f"{file}_frame{frame:05d}"


def _counted(masks: Path | None) -> str:
    return "; pixels of structures; outside of the sectors; on letters" if masks else ""


def _masks(folder: Path | None) -> dict[str, Path]:
    """Frame -> mask, of the results of an inference."""
    if folder is None:
        return {}
    records = json.loads((folder / "predictions.json").read_text())["images"]
    return {_name(one["file"], one.get("frame")): folder / one["mask"] for one in records if one["mask"]}


def _outside(path: Path, sectors: Sequence[Sector], letters: np.ndarray) -> list[int]:
    """How many pixels of a predicted mask there are, outside of the sectors, and on letters."""
    mask = np.asarray(Image.open(path)) > 0
    inside = np.logical_or.reduce([s.mask for s in sectors]) if sectors else np.ones_like(mask)
    return [int(part.sum()) for part in (mask, mask & ~inside, mask & letters)]


def _draw(path: Path, image: Tensor, sectors: Sequence[Sector], letters: np.ndarray) -> None:
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy().copy()
    for number, sector in enumerate(sectors):
        edge = sector.mask & ~ndimage.binary_erosion(sector.mask, iterations=max(2, max(pixels.shape) // 250))
        pixels[edge] = COLORS[number % 2]
    pixels[letters] = (255, 255, 0)
    Image.fromarray(pixels).save(path, format="png")


def _score(args: argparse.Namespace, finder: TextFinder | None) -> int:
    print(f"{args.phantoms} screens of each kind, seed {args.seed}: mean (least)")
    for kind in KINDS:
        view = np.random.default_rng([args.seed, KINDS.index(kind)])
        rows = [score_screen(kind, view, finder) for _ in range(args.phantoms)]
        shown = {name: [v for row in rows if (v := row[name]) is not None] for name in rows[0]}
        print(f"{kind}: " + ", ".join(f"{k} {np.mean(v):.3f} ({np.min(v):.3f})" for k, v in shown.items() if v))
    return 0


def score_screen(kind: str, view: np.random.Generator, finder: TextFinder | None) -> dict[str, float | None]:
    """Figures of one made-up screen, in [0, 1].

    Returns:
        ``sectors``: 1 where the right number was found, else 0; ``IoU``: of each sector's mask, the mean, a missing one
        counting 0; ``text recall``, ``text precision``: of the pixels of letters; ``caliper recall``.
    """
    screen = make_screen(kind, view)
    image = torch.from_numpy(screen.pixels.copy()).permute(2, 0, 1).float() / 255
    found = [sector.mask for sector in find_sectors(image)]
    pairs = zip(found, screen.sectors, strict=False)
    overlaps = [(one & other).sum() / (one | other).sum() for one, other in pairs]
    figures: dict[str, float | None] = {
        "sectors": float(len(found) == len(screen.sectors)),
        "IoU": float(sum(overlaps) / max(len(found), len(screen.sectors))),
        "caliper recall": float(marks(image)[screen.calipers].mean()),
    }
    if finder is not None:
        letters = strokes(image, finder(image))
        figures["text recall"] = float(letters[screen.text].mean())
        figures["text precision"] = float(screen.text[letters].mean()) if letters.any() else None
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
