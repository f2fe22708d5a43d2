# SPDX-License-Identifier: Apache-2.0
"""Predictions to files: a mask and an overlay per image, one JSON and one CSV for all."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from PIL import Image
from scipy.ndimage import binary_erosion

from bundle import __version__
from bundle.vocabulary import UNKNOWN

logger = logging.getLogger(__name__)

COLORS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240))
"""RGB of structures 1, 2 ...; they repeat when there are more structures."""

FILL = 0.25  # opacity of a structure's inside; its contour is opaque
PROMPTS_USED = ("position", "nature", "task")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that an interruption leaves the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def color(structure: int) -> tuple[int, int, int]:
    """RGB of a structure's index, 1 or more."""
    return COLORS[(structure - 1) % len(COLORS)]


def draw_overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image with translucent structures and opaque contours.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) structure indices.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = image.astype(np.float32)
    width = max(1, min(mask.shape) // 250)
    for index in (int(v) for v in np.unique(mask) if v > 0):
        inside = mask == index
        contour = inside & ~binary_erosion(inside, iterations=width, border_value=1)
        drawn[inside] = (1 - FILL) * drawn[inside] + FILL * np.array(color(index), np.float32)
        drawn[contour] = color(index)
    result: np.ndarray = drawn.round().astype(np.uint8)
    return result


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as one CSV row: nested keys are joined by a dot."""
    row: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            row.update({f"{key}.{name}": v for name, v in _flat(value).items()})
        else:
            row[key] = value
    return row


class PredictionWriter:
    """Writes predictions while an evaluator runs; when it completes, exits with status 1 if any file failed.

    Per image, in the folders of the data set: ``<name>_mask.png`` (8 bit, value = structure index, native size) and
    ``<name>_overlay.png``. At the end ``predictions.json`` and ``predictions.csv``; until then the rows are in
    ``predictions.partial.csv``, so that an interrupted run keeps what it had, and an earlier run's tables.
    What they say of an image is its ``result``, see :class:`bundle.transforms.DescribePredictiond`. Nothing of a
    file's header is written. Attach it last: it leaves the process.

    Args:
        output_dir: folder of the results; made when absent.
        structures: names of the mask's values, background first.
        label_sets: class heads, name -> class names.
        load: transform that reads ``image`` of an item for the overlay, upright (3, H, W) in [0, 1].
        weights: file of the network's weights, for its hash.

    Raises:
        OSError: at the start, when ``output_dir`` cannot be written.
        SystemExit: at the end, when a file failed.
    """

    def __init__(
        self,
        *,
        output_dir: str,
        structures: Sequence[str],
        label_sets: Mapping[str, Sequence[str]],
        load: Callable[[dict[str, Any]], Mapping[str, Any]],
        weights: str,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.partial = self.output_dir / "predictions.partial.csv"
        self.structures, self.label_sets = list(structures), dict(label_sets)
        self.load, self.weights = load, weights
        self.records: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator that decollates its output."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write_batch)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.records = []
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            with self.partial.open("w", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns()).writeheader()
        except OSError as e:
            raise OSError(
                f"output_dir must be a folder that can be written, got {self.output_dir}: {e}; choose another with"
                " --output_dir."
            ) from e

    def _columns(self) -> list[str]:
        empty = self._record({"file": "", "error": ""})
        for name, classes in self.label_sets.items():
            empty["classes"][name] = {"predicted": "", "probabilities": dict.fromkeys(classes)}
        return list(_flat(empty))

    def _record(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """An image's entry before its results are known."""
        return {
            "file": item["file"],
            "error": item["error"],
            "prompts": {name: item.get(name, UNKNOWN) for name in PROMPTS_USED},
            "spacing_mm": {"row": None, "column": None},
            "areas": {name: {"pixels": None, "mm2": None} for name in self.structures[1:]},
            "classes": {},
            "mask": None,
            "overlay": None,
        }

    def _write_image(self, item: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Writes one image's mask and overlay, and completes its record."""
        study = item["pred"].cpu().numpy()  # (W, H) or (W, H, 1)
        mask = study.reshape(study.shape[:2]).T
        record.update({key: item["result"][key] for key in ("spacing_mm", "areas", "classes")})
        image = self.load({"image": str(item["image"].meta["filename_or_obj"])})["image"].numpy()
        image = (image * 255).round().astype(np.uint8).transpose(1, 2, 0)
        pictures = {"mask": mask, "overlay": draw_overlay(image, mask)}
        for kind, pixels in pictures.items():
            record[kind] = f"{item['output']}_{kind}.png"
            path = self.output_dir / record[kind]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _png(pixels))

    def _write_batch(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            item = {**batch, **output}
            path = str(item["image"].meta["filename_or_obj"])
            # The reason names the file by its path on this machine, which does not belong in a result.
            item["error"] = item["error"].removeprefix(f"{path}: ").replace(path, item["file"])
            record = self._record(item)
            if item["error"]:
                logger.error(f"{item['file']}: {item['error']}")
            else:
                self._write_image(item, record)
            self.records.append(record)
            with self.partial.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns()).writerow(_flat(record))

    def _finish(self, engine: Engine) -> None:
        header = {
            "created_by": f"ultrasound-uperconvnext {__version__}",
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "model": {"version": __version__, "weights_sha256": sha256(self.weights)},
            "structures": [
                {"value": i, "name": name, "color": "#" + bytes(color(i)).hex() if i else None}
                for i, name in enumerate(self.structures)
            ],
            "label_sets": {name: list(classes) for name, classes in self.label_sets.items()},
        }
        table = self.output_dir / "predictions.json"
        content = json.dumps({**header, "images": self.records}, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(table, content.encode())
        os.replace(self.partial, self.output_dir / "predictions.csv")
        failed = [record["file"] for record in self.records if record["error"]]
        logger.info(
            f"{len(self.records) - len(failed)} of {len(self.records)} images done: masks and overlays in"
            f" {self.output_dir}, tables {table} and {table.with_suffix('.csv')}."
        )
        if failed:
            logger.error(f"{len(failed)} files failed: {', '.join(failed)}; the reasons are above and in the tables.")
            raise SystemExit(1)
