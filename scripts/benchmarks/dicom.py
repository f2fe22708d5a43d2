# SPDX-License-Identifier: Apache-2.0
"""Inference on DICOM files with DICOM objects, against the same without them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.listing import list_images
from bundle.engines.processes import keep_freed_memory
from scripts.benchmarks.folder import BATCH, CONFIGS, Case, link_images
from scripts.benchmarks.interleave import Options, Part, interleave

WAYS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "PNG, SEG": {"dicom": True, "sinks#sr": None, "sinks#sc": None, "sinks#gsps": None},
    "PNG, SEG, SR": {"dicom": True, "sinks#sc": None, "sinks#gsps": None},
    "PNG, SEG, SR, SC, GSPS": {"dicom": True},
}
"""What is written -> changes of the config."""


def measure(options: Options) -> Part:
    """Times the same run with more and more objects, in turns; in each image a lesion is looked for and drawn."""
    if options.ultrasound is None or not (options.ultrasound / "dicom").is_dir():
        raise FileNotFoundError("--ultrasound must have a folder dicom of DICOM images, got none; name another folder.")
    count = 32 if options.quick else 96
    sources = [Path(item["image"]) for item in list_images(options.ultrasound / "dicom")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = link_images(sources, Path(temporary) / "images", count=count)
        case = Case("compact", (CONFIGS / "inference.yaml",), {"ckpt_path": str(options.weights)}, count, (0,))
        keep_freed_memory()
        runs: dict[str, Callable[[], Any]] = {}
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        for way, changes in WAYS.items():
            asked = {"position": "breast", "gate": None, "frames": 10, **changes}
            parser = case.parser(folder, Path(temporary) / way, 0, **asked)
            runs[way] = partial(_spend, parser.get_parsed_content("evaluator").run, spent[way])
            images = len(parser.get_parsed_content("dataset"))
        timings = interleave(runs, rounds=2 if options.quick else 3)
    cpu = {way: float(np.median(seconds[1:])) for way, seconds in spent.items()}  # the first one loads the weights
    rows = [
        {
            "written": way,
            "ms an image": 1000 * timings[way].median / images,
            "CPU ms an image": 1000 * cpu[way] / images,
            "CPU, of PNG alone": cpu[way] / cpu["PNG"],
        }
        for way in WAYS
    ]
    note = f"{images} images and frames of {count} files, batches of {BATCH}, no loader processes."
    return Part(title="DICOM objects", note=note, rows=rows)


def _spend(work: Callable[[], Any], seconds: list[float]) -> None:
    """Does the work, and notes the CPU time of all threads, which other programs on the machine disturb less."""
    start = time.process_time()
    work()
    seconds.append(time.process_time() - start)
