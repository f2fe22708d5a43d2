# SPDX-License-Identifier: Apache-2.0
"""Folder inference from files to files, against the network alone on the same batches; memory as the folder grows."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.data.utils import no_collation
from monai.engines import SupervisedEvaluator
from monai.utils import optional_import
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bundle.data.listing import list_images  # noqa: E402
from bundle.data.phantom import datalist_path  # noqa: E402
from bundle.engines import prepare_items  # noqa: E402
from bundle.engines.processes import keep_freed_memory  # noqa: E402
from bundle.export import Exporter, load_source  # noqa: E402
from bundle.sinks.png import encode_png  # noqa: E402
from scripts.benchmarks.interleave import Options, Part, interleave  # noqa: E402

psutil, _ = optional_import("psutil")

CONFIGS = ROOT / "configs"
SETS = ("Dataset_BUSI_with_GT", "segmentation/USGRA/imgs", "segmentation/Fetal_HC/imgs")
BATCH = 4


@dataclass(frozen=True)
class Case:
    """A network and what runs it.

    Attributes:
        name: of the network.
        config: files of the inference config.
        options: config ids that differ from the config.
        images: as many as are timed at a time.
        workers: numbers of loader processes to time.
    """

    name: str
    config: tuple[Path, ...]
    options: dict[str, Any]
    images: int
    workers: tuple[int, ...]

    @property
    def runtime(self) -> str:
        """What runs the network."""
        return str(self.options.get("runtime", "torch"))

    def parser(self, folder: Path, output: Path, workers: int, **changes: Any) -> ConfigParser:
        """The inference of ``folder``, without its progress bar, with ``changes`` of the config."""
        parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in self.config]))
        parser.update({"bundle_root": str(ROOT), "dataset_dir": str(folder), "output_dir": str(output)})
        parser.update({"num_workers": workers, "batch_size": BATCH, "named_handlers#progress#_disabled_": True})
        parser.update({**self.options, **changes})
        return parser


def measure(options: Options) -> Part:
    """Times the networks and runtimes in turns, each from files to files and on batches in memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = Path(temporary), []
        sources = source_images(options)
        cases = _cases(options, folder)
        for number, case in enumerate(cases):
            images = link_images(sources, folder / str(number), count=case.images)
            rows += _measure_case(case, images, folder / f"out_{number}", rounds=2 if options.quick else 3)
        sizes = (50, 200) if options.quick else (100, 1000)
        memory = [measure_memory(sources, folder / f"memory_{n}", options.weights, count=n) for n in sizes]
    grown = ", ".join(f"{entry['images']} images {entry['peak_mb']:.0f} MB" for entry in memory)
    note = (
        f"{cases[0].images} images (paper network {cases[-1].images}), batches of {BATCH}, start of loader processes "
        f"included, {os.cpu_count()} cores. The network alone takes the same batches from memory, one after the other "
        "with all threads, or in lanes as folder inference does; the share is of the faster way. CPU time is that of a "
        "run without loader processes; files alone: images decoded by Pillow, masks and overlays encoded and written, "
        "and nothing else. "
        f"Peak memory of all processes together, compact network: {grown}."
    )
    return Part(title="Folder", note=note, rows=rows, extra={"memory": memory})


def source_images(options: Options) -> list[Path]:
    """Real images, as many of each set in turn; the phantom's when there are none."""
    if options.ultrasound is None:
        folder = ROOT / "data" / "phantom"
        datalist_path(str(folder), phantom_dir=str(folder), seed=0, patients=220)
        return [Path(item["image"]) for item in list_images(folder / "images")]
    found = [
        [Path(item["image"]) for item in list_images(options.ultrasound / name) if "_mask" not in item["image"]]
        for name in SETS
    ]
    return [path for paths in zip(*found, strict=False) for path in paths]


def link_images(sources: Sequence[Path], folder: Path, *, count: int) -> Path:
    """A new folder with ``count`` links to the images, which repeat when there are fewer."""
    folder.mkdir(parents=True)
    for n in range(count):
        path = sources[n % len(sources)].resolve()
        (folder / f"{n:05}{path.suffix}").symlink_to(path)
    return folder


def _cases(options: Options, folder: Path) -> list[Case]:
    compact, paper = (CONFIGS / "inference.yaml",), (CONFIGS / "inference.yaml", CONFIGS / "paper.yaml")
    exporter = Exporter(
        load_source(options.weights, config_files=[CONFIGS / "train.yaml"]),
        output_dir=folder / "exports",
        threads=torch.get_num_threads(),
    )
    exporter.export("openvino", "float32")
    openvino = {"runtime": "openvino", "model_path": str(folder / "exports" / "model_float32.xml")}
    weights = {"ckpt_path": str(options.weights)}
    workers = (0,) if options.quick else (0, 1, 2)
    count = 48 if options.quick else 120
    random = {"ckpt_path": str(_random_weights(paper, folder, options.seed))}
    return [
        *(Case("compact", compact, way, count, workers) for way in (weights, openvino)),
        Case("paper", paper, random, 12 if options.quick else 40, workers),
    ]


def _random_weights(config: Sequence[Path], folder: Path, seed: int) -> Path:
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in config]))
    torch.manual_seed(seed)
    network = parser.get_parsed_content("network_def")
    path = folder / "random.pt"
    torch.save({"model": network.state_dict(), "network_config": network.network_config()}, path)
    return path


def _measure_case(case: Case, folder: Path, output: Path, *, rounds: int) -> list[dict[str, Any]]:
    parser = case.parser(folder, output, 0)
    keep_freed_memory()  # as the config's run does
    evaluator, lanes = parser.get_parsed_content("evaluator"), parser.get_parsed_content("lanes")
    single = case.parser(folder, output, 0, lanes=1).get_parsed_content("evaluator")
    evaluator.run()  # which loads the weights
    single.run()
    items = DataLoader(parser.get_parsed_content("dataset"), batch_size=BATCH, collate_fn=no_collation)
    batches = [prepare_items(batch) for batch in items]
    alone = {"one": lambda: _predict(single, batches, 1), "lanes": lambda: _predict(evaluator, batches, lanes)}
    runs = {str(n): case.parser(folder, output, n).get_parsed_content("evaluator").run for n in case.workers}
    timings = interleave({**runs, **alone}, rounds=rounds)
    start = time.process_time()
    alone["lanes"]()
    middle = time.process_time()
    evaluator.run()
    network, whole = middle - start, time.process_time() - middle
    files = _files_alone(folder, output)
    rates = {way: case.images / timing.median for way, timing in timings.items()}
    return [
        {
            "network": case.name,
            "runtime": case.runtime,
            "loader processes": workers,
            "images/s, files to files": rates[str(workers)],
            "images/s, network alone, one call": rates["one"],
            f"images/s, network alone, {lanes} lanes": rates["lanes"],
            "share": rates[str(workers)] / max(rates[way] for way in alone),
            "CPU ms an image, network": 1000 * network / case.images,
            "CPU ms an image, all else": 1000 * (whole - network) / case.images,
            "CPU ms an image, files alone": 1000 * files / case.images,
        }
        for workers in case.workers
    ]


def _predict(evaluator: SupervisedEvaluator, batches: Sequence[Any], lanes: int) -> None:
    """Runs the network alone on batches, as many at once as there are lanes, which share the threads."""

    @torch.no_grad()
    def call(batch: Any) -> None:
        image, _, _, options = batch
        evaluator.inferer(image, evaluator.network, **options)

    threads = torch.get_num_threads()
    share = max(1, threads // lanes)
    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(share,)) as pool:
        list(pool.map(call, batches))
    torch.set_num_threads(threads)


def _files_alone(folder: Path, output: Path) -> float:
    """CPU seconds to decode the images of a folder, and to encode and write the pictures that were made of them."""
    pictures = [np.asarray(Image.open(path)) for path in sorted(output.glob("*.png"))]
    start = time.process_time()
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
    for number, pixels in enumerate(pictures):
        (output / f"again_{number}").write_bytes(encode_png(pixels))
    return time.process_time() - start


def measure_memory(sources: Sequence[Path], folder: Path, weights: Path, *, count: int) -> dict[str, Any]:
    """Peak memory of the command line on ``count`` images, and what it held at a quarter and at the end of its time.

    Shared pages count once in each process (proportional set size).
    """
    images = link_images(sources, folder / "images", count=count)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / "inference.yaml")]
    command += ["--bundle_root", str(ROOT), "--dataset_dir", str(images), "--output_dir", str(folder / "out")]
    start = time.monotonic()
    held: list[float] = []
    with (folder / "log").open("wb") as log:
        run = subprocess.Popen([*command, "--ckpt_path", str(weights)], stdout=log, stderr=log, cwd=ROOT)
        while run.poll() is None:
            held.append(_megabytes(run.pid))
            time.sleep(1)
    if run.returncode:
        raise RuntimeError(f"folder inference must end with status 0, got {run.returncode}; see {folder / 'log'}.")
    seconds = time.monotonic() - start
    quarter, late = held[len(held) // 4], held[-2] if len(held) > 1 else held[-1]
    return {"images": count, "peak_mb": max(held), "quarter_mb": quarter, "end_mb": late, "seconds": seconds}


def _megabytes(pid: int) -> float:
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.NoSuchProcess:  # it ended between two looks
        pass
    return total / 2**20


def main() -> None:
    """Prints the memory for folders of the sizes asked for."""
    parser = argparse.ArgumentParser(description="Memory of folder inference as the folder grows.")
    parser.add_argument("counts", nargs="+", type=int, help="numbers of images, such as 100 1000 10000")
    parser.add_argument("--weights", type=Path, default=ROOT / "models" / "model.pt")
    parser.add_argument("--ultrasound", type=Path, help="folder of public images; default: the phantom's")
    args = parser.parse_args()
    options = Options(quick=False, datalist=Path(), ultrasound=args.ultrasound, weights=args.weights)
    sources = source_images(options)
    for count in args.counts:
        with tempfile.TemporaryDirectory() as folder:
            print(measure_memory(sources, Path(folder), args.weights, count=count), flush=True)


if __name__ == "__main__":
    main()
