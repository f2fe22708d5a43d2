# SPDX-License-Identifier: Apache-2.0
"""Growth of whole runs: images of a folder, processes of a training; and of the network's side and batch."""

from __future__ import annotations

import itertools
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bundle.tables import read_table
from scripts.growth_parts.isolated import Row, Watch, isolated, run_command

ROOT = Path(__file__).resolve().parents[2]
TRAIN, OVERLAY = ROOT / "configs" / "train.yaml", ROOT / "configs" / "multi_gpu_train.yaml"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def measure_inference(sizes: Sequence[int], *, images: Path) -> list[Row]:
    """A row per number of images: links to the images below ``images``, each used as often as needed.

    Raises:
        FileNotFoundError: when there is no image.
    """
    files = sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and "mask" not in str(p))
    if not files:
        raise FileNotFoundError(f"{images}: images expected below it, got none; give another folder with --images.")
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "in").mkdir()
            for number, file in zip(range(size), itertools.cycle(files), strict=False):
                (folder / "in" / f"{number:06d}{file.suffix}").symlink_to(file.resolve())
            command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{ROOT}/configs/inference.yaml"]
            command += ["--bundle_root", str(ROOT), "--dataset_dir", f"{folder}/in", "--output_dir", f"{folder}/out"]
            done = run_command(command, log=folder / "log.txt")
        rows.append({"images": size, "seconds": round(done.seconds, 2), "peak_mb": round(done.peak_mb)})
    first = rows[0]
    for row in rows[1:]:
        row["images_per_second_beyond_first"] = (row["images"] - first["images"]) / (row["seconds"] - first["seconds"])
    return rows


def measure_size(sides: Sequence[int], batches: Sequence[int], *, seed: int) -> list[Row]:
    """A row per side and batch: the network of train.yaml in eager float32, each in its own process."""
    return [
        row
        for side, batch in itertools.product(sides, batches)
        if batch * side**2 <= 64 * 512**2  # more does not fit in the memory of a laptop
        for row in isolated(forward, side=side, batch=batch, seed=seed)
    ]


def forward(watch: Watch, *, side: int, batch: int, seed: int) -> None:
    """All heads on random images: median of five calls after one."""
    import torch
    from monai.bundle import ConfigParser

    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config(str(TRAIN))
    network = parser.get_parsed_content("network_def").eval()
    images, times = torch.randn(batch, 3, side, side), []
    with watch.step("forward") as row, torch.inference_mode():
        for _ in range(6):
            start = time.perf_counter()
            network.predict(images)
            times.append(time.perf_counter() - start)
    median = statistics.median(times[1:])
    row |= {"side": side, "batch": batch, "ms_per_call": median * 1e3, "images_per_second": batch / median}
    row["threads"] = torch.get_num_threads()


def measure_processes(*, samples: int, data: Path) -> list[Row]:
    """A row per number of processes, of equal samples per epoch and joint batch, on this machine's cores alone."""
    rows = []
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            configs = str(TRAIN) if processes == 1 else str([str(TRAIN), str(OVERLAY)])
            run = ["-m", "monai.bundle", "run", "training", "--config_file", configs, "--bundle_root", str(ROOT)]
            run += ["--dataset_dir", str(data), "--output_dir", f"{folder}/run", "--ckpt_dir", f"{folder}/models"]
            run += ["--cache_dir", f"{folder}/cache", "--samples_per_epoch", str(samples)]
            run += ["--batch_size", str(16 // processes), "--max_epochs", "3", "--val_interval", "2"]
            if processes > 1:
                run = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", *_rendezvous(), *run]
            done = run_command([sys.executable, *run], log=folder / "log.txt")
            epochs = [float(row["seconds"]) for row in read_table(folder / "run" / "metrics.csv")]
        rows.append(
            {
                "processes": processes,
                "samples_per_epoch": samples,
                "images_per_second": samples / epochs[2],  # a warm cache and no validation
                "epoch_seconds": epochs,
                "seconds": round(done.seconds, 1),
                "peak_mb_of_largest_process": round(done.peak_mb),
            }
        )
    return rows


def _rendezvous() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return ["--master_addr=127.0.0.1", f"--master_port={free.getsockname()[1]}"]
