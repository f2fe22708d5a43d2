# SPDX-License-Identifier: Apache-2.0
"""The shipped multi_gpu_train.yaml under torchrun: two CPU processes do what one does with the doubled batch."""

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bundle.networks.weights import read_file

ROOT = Path(__file__).resolve().parents[1]
# exact sums: float32, and no dropout, whose random numbers each process draws for itself
OPTIONS = {"amp": False, "drop_path": 0.0, "task_weights": None, "max_epochs": 3}


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    done = subprocess.run(
        [*launcher, *command[1:]], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
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
