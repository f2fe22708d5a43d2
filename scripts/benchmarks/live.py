# SPDX-License-Identifier: Apache-2.0
"""A frame of a stream from pixels to mask, classes and areas, as scripts/live.py does it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bundle.live import Frame, blank, build_segmenter
from bundle.live.pictures import Picture
from scripts.benchmarks.interleave import Options, Part

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 600, 800
WARMUP = 20


def _frame(options: Options) -> Frame:
    """A real breast image at 800 x 600 where there are public images, else synthetic speckle."""
    found = sorted((options.ultrasound or Path()).glob("Dataset_BUSI_with_GT/malignant/malignant (12).png"))
    if not found:
        return blank(HEIGHT, WIDTH)
    pixels = np.asarray(Image.open(found[0]).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    return Frame(0, 0.0, 0.0, Picture(np.ascontiguousarray(pixels[..., ::-1])))


def measure(options: Options) -> Part:
    """Milliseconds per frame of the network in PyTorch and of every OpenVINO model in exports/, in turns."""
    threads = torch.get_num_threads()
    segmenters: dict[str, Any] = {"PyTorch": build_segmenter(ROOT, window=5, ckpt_path=str(options.weights))}
    for path in sorted((ROOT / "exports").glob("model_*.xml")):
        segmenters[f"OpenVINO {path.stem.removeprefix('model_')}"] = build_segmenter(
            ROOT, window=5, runtime="openvino", model_path=str(path), runtime_threads=threads
        )
    frame, rounds = _frame(options), 100 if options.quick else 300
    seconds: dict[str, list[float]] = {name: [] for name in segmenters}
    for turn in range(WARMUP + rounds):
        for name, segmenter in segmenters.items():
            start = time.perf_counter()
            segmenter(frame)
            if turn >= WARMUP:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        median, p95, p99 = (float(q) * 1e3 for q in np.quantile(times, [0.5, 0.95, 0.99]))
        rows.append({"model": name, "median ms": median, "95 %": p95, "99 %": p99, "frames/s": 1e3 / median})
    note = (
        f"One color frame of {WIDTH} x {HEIGHT} to mask, classes and areas, vote over five frames, {threads} threads, "
        f"{rounds} frames each. OpenVINO models are those of scripts/export.py in exports/."
    )
    return Part("A frame", note, rows)
