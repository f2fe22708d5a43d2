# SPDX-License-Identifier: Apache-2.0
"""The shipped multi_gpu_*.yaml under torchrun: several CPU processes do what one does, also when some are lost."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from bundle.files import LEDGER
from bundle.networks.weights import read_file

ROOT = Path(__file__).resolve().parents[1]
# exact sums: float32, and no dropout, whose random numbers each process draws for itself
SMALL = {"encoder": "test_convnext", "decoder_channels": 16}
OPTIONS = {"amp": False, "drop_path": 0.0, "task_weights": "$None", "max_epochs": 3}


def environment() -> dict[str, str]:
    """One thread per process, so that sums have one order."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def torchrun(command: list[str], *, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Runs the command line of one process in several."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*launcher, f"--master_port={free_port()}", *command[1:]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )


def start_nodes(command: list[str], folder: Path) -> list[subprocess.Popen[bytes]]:
    """Starts the command line on two "computers", one process each; their output goes to folder/node<n>.log."""
    port, nodes = free_port(), []
    for rank in (0, 1):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={rank}"]
        launcher += ["--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
        with (folder / f"node{rank}.log").open("wb") as log:
            nodes.append(
                subprocess.Popen([*launcher, *command[1:]], stdout=log, stderr=log, cwd=ROOT, env=environment())
            )
    return nodes


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An overlay that notes which items each process draws in each epoch, in tmp_path/draws_<process>_<epoch>.json."""
    (tmp_path / "recorder.py").write_text(
        "import json\n"
        "import os\n"
        "from pathlib import Path\n"
        "from ignite.engine import Events\n\n\n"
        "class Recorder:\n"
        "    def attach(self, engine):\n"
        "        engine.add_event_handler(Events.EPOCH_COMPLETED, self)\n\n"
        "    def __call__(self, engine):\n"
        "        path = Path(__file__).with_name(f\"draws_{os.environ.get('RANK', 0)}_{engine.state.epoch}.json\")\n"
        "        path.write_text(json.dumps([draw.place for draw in engine.data_loader.sampler]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "recorder.json"
    path.write_text(json.dumps({"+train#handlers": [{"_target_": "recorder.Recorder"}]}))
    return str(path)


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader((folder / "metrics.csv").open())]


def files(folder: Path) -> list[str]:
    """Names of all files; TensorBoard's say which process of which computer wrote them, and are cut."""
    return sorted(str(p.relative_to(folder)).split(".tfevents.")[0] for p in folder.rglob("*") if p.is_file())


def test_two_processes_equal_one_with_the_doubled_batch(
    training_command: Callable[..., list[str]], run_training: Callable[..., None], recorder: str, tmp_path: Path
) -> None:
    overlays = (str(ROOT / "configs/multi_gpu_train.yaml"), recorder)
    command = training_command(tmp_path / "two", *overlays, **OPTIONS, batch_size=2)
    done = torchrun(command)
    assert done.returncode == 0, done.stderr[-5000:]

    run_training(tmp_path / "one", **OPTIONS, batch_size=4)
    assert losses(tmp_path / "two/run") == pytest.approx(losses(tmp_path / "one/run"), rel=1e-4)
    weights = [read_file(folder / "models/model.pt")["model"] for folder in (tmp_path / "one", tmp_path / "two")]
    for name, value in weights[0].items():  # AdamW turns rounding of tiny gradients into steps of the learning rate
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3, msg=name)

    draws = {
        (rank, epoch): json.loads((tmp_path / f"draws_{rank}_{epoch}.json").read_text())
        for rank in (0, 1)
        for epoch in (1, 2, 3)
    }
    for epoch in (1, 2, 3):
        assert sorted(draws[0, epoch] + draws[1, epoch]) == list(range(12))  # each item once
    assert draws[0, 1] != draws[0, 2]

    # The second process writes nothing: no log of its own, and each line of the first is there once.
    assert files(tmp_path / "two/run") == files(tmp_path / "one/run")
    assert done.stdout.count("epoch 1/3: loss") == 1
    assert done.stdout.count(f"weights: {tmp_path}/two/models/model.pt") == 1


def test_more_processes_than_validation_images_train(
    training_command: Callable[..., list[str]], tmp_path: Path
) -> None:
    overlay = str(ROOT / "configs/multi_gpu_train.yaml")
    command = training_command(tmp_path, overlay, norm="batch", batch_size=1, max_epochs=1)  # 4 images to validate
    done = torchrun(command, processes=5)
    assert done.returncode == 0, done.stderr[-5000:]
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1"]
    assert all(0 <= float(row["val_score"]) <= 1 for row in rows)
    assert (tmp_path / "models/model.pt").is_file()


def test_evaluation_by_three_processes_gives_the_files_of_one(
    training_command: Callable[..., list[str]], weights: Path, tmp_path: Path
) -> None:
    def command(name: str, *overlays: str) -> list[str]:
        files = [str(ROOT / "configs" / overlay) for overlay in ("evaluate.yaml", *overlays)]
        line = training_command(tmp_path / name, *files, ckpt_path=weights, bootstrap_resamples=50, protocol="paper")
        return [argument for argument in line if argument != "training"]

    one = subprocess.run(command("one"), capture_output=True, text=True, cwd=ROOT, env=environment())
    assert one.returncode == 0, one.stderr[-5000:]
    several = torchrun(command("several", "multi_gpu_evaluate.yaml"), processes=3)  # 4 images: 2, 1, 1
    assert several.returncode == 0, several.stderr[-5000:]
    assert files(tmp_path / "several/run") == files(tmp_path / "one/run")
    for name in ("per_image.csv", "per_image_classification.csv", "summary.json", "results.md", "worst_cases.png"):
        assert (tmp_path / "several/run" / name).read_bytes() == (tmp_path / "one/run" / name).read_bytes(), name
    assert several.stdout.count("evaluation finished") == 1


def inference_command(folder: Path, out: Path, weights: Path, *overlays: str) -> list[str]:
    configs = str([str(ROOT / "configs" / name) for name in ("inference.yaml", *overlays)])
    options = {"dataset_dir": folder, "output_dir": out, "ckpt_path": weights, "num_workers": 0, **SMALL}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", configs]
    return command + [text for name, value in options.items() for text in (f"--{name}", str(value))]


def predictions(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "predictions.json").read_text())
    return {**found, "created": ""}


def make_images(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    (folder / "images/sub").mkdir(parents=True)
    for n in range(count):
        size = (30 + 7 * n, 70 - 5 * n)
        Image.fromarray(random.integers(0, 255, size, np.uint8)).save(folder / f"images/{'sub/' * (n % 2)}{n}.png")
    return folder / "images"


@pytest.mark.parametrize(("images", "bad"), [(1, []), (6, ["3x.png"])], ids=["fewer than processes", "one fails"])
def test_inference_by_two_processes_gives_the_files_of_one(
    weights: Path, tmp_path: Path, images: int, bad: list[str]
) -> None:
    folder, out = make_images(tmp_path, images), tmp_path / "several"
    for name in bad:
        (folder / name).write_bytes(b"no image")
    one = subprocess.run(
        inference_command(folder, tmp_path / "one", weights),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    several = torchrun(inference_command(folder, out, weights, "multi_gpu_inference.yaml"))
    assert one.returncode == several.returncode == len(bad), several.stderr[-5000:]
    assert len(predictions(out)["images"]) == images + len(bad)
    assert predictions(out) == predictions(tmp_path / "one")
    assert files(out) == files(tmp_path / "one")
    for name in files(out):
        if name not in ("predictions.json", LEDGER):  # the one has the time, the other the order of writing
            assert (out / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert several.stdout.count(f"{images} of {images + len(bad)} images done") == 1


def test_several_processes_refuse_files_of_others_together_and_repeat_their_own(weights: Path, tmp_path: Path) -> None:
    """The truth is that of the last image, which the second process would write; the first would write before."""
    folder = make_images(tmp_path, 6)
    Image.new("L", (45, 65)).save(folder / "sub/5_mask.png")
    command = inference_command(folder, folder, weights, "multi_gpu_inference.yaml")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    done = torchrun(command)
    assert done.returncode != 0
    assert "sub/5_mask.png: expected a free name or an unchanged file of an earlier run" in done.stderr
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    (folder / "sub/5_mask.png").unlink()
    for _ in range(2):
        done = torchrun([*command, "--probabilities", "true"])
        assert done.returncode == 0, done.stderr[-5000:]
    assert len(list(folder.rglob("*_probabilities.npz"))) == 6


def kill_worker(node: subprocess.Popen[bytes]) -> None:
    """Kills the process that torchrun started, as a crash would."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the process to kill in /proc")
def test_a_lost_computer_ends_the_training_which_then_resumes(
    training_command: Callable[..., list[str]], tmp_path: Path
) -> None:
    overlay = str(ROOT / "configs/multi_gpu_train.yaml")
    options = {"batch_size": 2, "max_epochs": 3, "samples_per_epoch": 400}  # long enough to be killed in
    nodes = start_nodes(training_command(tmp_path, overlay, **options), tmp_path)
    try:
        best = tmp_path / "run/best.pt"
        deadline = time.monotonic() + 300
        while not best.is_file() and time.monotonic() < deadline and nodes[0].poll() is None:
            time.sleep(0.1)
        assert best.is_file(), (tmp_path / "node0.log").read_text()[-5000:]
        kill_worker(nodes[1])
        assert [node.wait(timeout=600) for node in nodes] == [1, 1]
    finally:
        for node in nodes:
            node.kill()
    text = (tmp_path / "node0.log").read_text()
    assert "process 0 of 2: another process ended, or could not be reached" in text
    assert "Start all processes again with --resume true" in text

    epoch = len(losses(tmp_path / "run"))
    command = training_command(tmp_path, overlay, **options, resume=True)
    nodes = start_nodes(command, tmp_path)
    assert [node.wait(timeout=300) for node in nodes] == [0, 0], (tmp_path / "node0.log").read_text()[-5000:]
    assert "resumed" in (tmp_path / "node0.log").read_text()
    assert epoch < len(losses(tmp_path / "run")) == 3


def test_pretraining_learns_the_same_whichever_process_writes(tiny_data: Path, tmp_path: Path) -> None:
    """Both processes hold the same weights at each step, so that the last one's loss is of all images."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "teacher.pth")
    files = str([str(ROOT / f"configs/{name}.yaml") for name in ("pretrain", "multi_gpu_pretrain")])
    options = {"encoder": "test_convnext", "teacher": "test_efficientnet", "teacher_weights": tmp_path / "teacher.pth"}
    options |= {"dataset_dir": tiny_data, "bundle_root": ROOT, "output_dir": tmp_path / "run", "image_size": 64}
    options |= {"cache_dir": tmp_path / "cache", "batch_size": 3, "max_epochs": 2, "num_workers": 0, "amp": False}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "pretraining", "--config_file", files, *arguments]
    done = torchrun(command)
    assert done.returncode == 0, done.stderr[-3000:]
    first, last = losses(tmp_path / "run")
    assert last < first
    assert read_file(tmp_path / "run/encoder.pt")["network_config"]["learned_from"] == ["Breast", "Limb", "Lung"]
    again = torchrun([*command, "--resume", "true"], processes=1)
    assert "run has" in again.stderr  # another number of processes is another run
