# SPDX-License-Identifier: Apache-2.0
"""What a training sample costs: decoded anew, from the disk cache, from memory, and as a loader delivers it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, RandAffined, RandFlipd, Resized, SpatialPadd
from torch.utils.data import DataLoader

from bundle.data.cache import CachedDataset
from bundle.data.sampling import Draw
from scripts.benchmarks.interleave import Options, Part, interleave

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "train.yaml"
REFERENCE_MS = 40.0
"""What a sample of the reference's pipeline takes on one thread of a machine like this, in ms."""


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _parser(options: Options, cache_dir: str | None) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_file(str(CONFIG)))
    parser["bundle_root"] = str(CONFIG.parents[1])
    parser["dataset_dir"] = str(options.datalist.parent)
    parser["cache_dir"] = cache_dir
    parser["seed"] = options.seed
    return parser


def _gaussian_pipeline(parser: ConfigParser) -> Compose:
    """The same sample with MONAI's transforms alone: a Gaussian filter, and one resampling after the other."""
    steps: list[Any] = [
        *parser.get_parsed_content("load_transforms"),
        *parser.get_parsed_content("load_label_transforms"),
    ]
    side = parser.get_parsed_content("image_size")
    for key, mode in (("image", "bilinear"), ("label", "nearest")):
        filtered = key == "image"
        steps.append(Resized(key, side, size_mode="longest", mode=mode, anti_aliasing=filtered))
        steps.append(SpatialPadd(key, [side, side]))
    keys = ["image", "label"]
    steps.append(RandFlipd(keys, prob=0.5, spatial_axis=1))
    steps.append(
        RandAffined(
            keys, prob=0.7, rotate_range=0.35, scale_range=[0.2, 0.2], translate_range=[20, 20],
            mode=["bilinear", "nearest"], padding_mode="zeros",
        )
    )  # fmt: skip
    steps += [t for t in parser.get_parsed_content("random_transforms")[:-1]]
    return Compose(
        steps + parser.get_parsed_content("normalize_transforms") + parser.get_parsed_content("prompt_transforms")
    )


def _ways(options: Options, folder: str) -> tuple[dict[str, Callable[[], None]], int]:
    """The ways to a sample, each as a call that draws all of them, and how many that are."""
    parser = _parser(options, folder)
    data: CachedDataset = parser.get_parsed_content("train#dataset")
    places = _places(options, len(data.data))
    without = _dataset(parser, data, None, 0.0)
    on_disk, in_memory = _dataset(parser, data, folder, 0.0), _dataset(parser, data, None, 4.0)
    former = _gaussian_pipeline(parser)

    def draw(source: CachedDataset) -> Callable[[], None]:
        def work() -> None:
            for place in places:
                source[Draw(place, place)]

        return work

    def draw_former() -> None:
        for place in places:
            former.set_random_state(place)
            former(dict(data.data[place]))

    ways = {
        "MONAI's Gaussian filter, step by step": draw_former,
        "ours, decoded anew": draw(without),
        "ours, from the disk": draw(on_disk),
        "ours, from memory": draw(in_memory),
    }
    return ways, len(places)


def _rows(options: Options, folder: str) -> list[dict[str, Any]]:
    ways, count = _ways(options, folder)
    with _one_thread():
        times = interleave(ways, rounds=3 if options.quick else 9)
    rows = []
    for name, timing in times.items():
        milliseconds = timing.median / count * 1e3
        rows.append(
            {
                "sample": name,
                "ms per thread": milliseconds,
                "quartiles": f"{timing.low / count * 1e3:.2f} to {timing.high / count * 1e3:.2f}",
                "of the reference's 40 ms": milliseconds / REFERENCE_MS,
                "samples/s": 1e3 / milliseconds,
            }
        )
    return rows


def _places(options: Options, items: int) -> list[int]:
    """The images that are drawn, all in the cache after the first round."""
    places: list[int] = np.random.default_rng(options.seed).permutation(items)[: 64 if options.quick else 256].tolist()
    return places


def _dataset(parser: ConfigParser, data: CachedDataset, folder: str | None, memory_gb: float) -> CachedDataset:
    return CachedDataset(
        data.data, parser.get_parsed_content("train#preprocessing"), cache_dir=folder, disk_gb=4.0, memory_gb=memory_gb
    )


def _loader_rows(options: Options, folder: str) -> list[dict[str, Any]]:
    """Samples per second of a loader with 0, 1 and 2 workers, from the disk cache; nothing else runs."""
    parser = _parser(options, folder)
    data: CachedDataset = parser.get_parsed_content("train#dataset")
    draws = 320 if options.quick else 2560
    order = np.random.default_rng(options.seed).choice(_places(options, len(data.data)), draws)
    sampler = [Draw(int(place), i) for i, place in enumerate(order)]
    rows = []
    for workers in (0, 1, 2):
        with _one_thread():
            source = _dataset(parser, data, folder, 0.0)
            loader: DataLoader[Any] = DataLoader(
                source, batch_size=16, sampler=sampler, num_workers=workers, drop_last=True
            )
            batches = iter(loader)
            next(batches)  # the processes have started
            start = time.perf_counter()
            seen = sum(len(batch["image"]) for batch in batches)
            seconds = time.perf_counter() - start
        rows.append({"workers": workers, "samples/s": seen / seconds, "samples": seen})
    return rows


def measure(options: Options) -> Part:
    """Milliseconds per sample and thread, and samples per second of the loader."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(options, folder)
        loader = _loader_rows(options, folder)
    per_core = next(row["samples/s"] for row in rows if row["sample"] == "ours, from the disk")
    for row in loader:
        rows.append(
            {
                "sample": f"loader, {row['workers']} workers, from the disk",
                "ms per thread": None,
                "quartiles": "",
                "of the reference's 40 ms": None,
                "samples/s": row["samples/s"],
            }
        )
    note = (
        "One training sample of the datalist's train split: decode, letterbox, crop, flip, rotation, zoom, intensity, "
        "normalization, prompt. One thread. 'Loader' collates batches of 16 while nothing trains; sixteen "
        "workers on sixteen free cores would give sixteen times the row 'from the disk'."
    )
    extra = {"loader": loader, "sixteen workers, extrapolated, samples/s": 16 * per_core, "cores": os.cpu_count()}
    return Part("Data path", note, rows, extra)
