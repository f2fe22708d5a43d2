# SPDX-License-Identifier: Apache-2.0
"""Interrupting and resuming the shipped training: the same result as an unbroken run, to the bit."""

import csv
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.networks.weights import read_file

Train = Callable[..., None]
EPOCHS = 4
DEFAULTS = {"max_epochs": EPOCHS, "drop_path": 0.2, "dropout": 0.1, "num_workers": 1}  # all that draws random numbers


@pytest.fixture
def interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes an overlay whose handler sends this process a signal in the middle of an epoch; gives its path."""
    (tmp_path / "interruption.py").write_text(
        "import os\n"
        "from ignite.engine import Events\n\n\n"
        "class Interruption:\n"
        "    def __init__(self, number, iteration):\n"
        "        self.number, self.iteration = number, iteration\n\n"
        "    def attach(self, engine):\n"
        "        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)\n\n"
        "    def __call__(self):\n"
        "        os.kill(os.getpid(), self.number)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def overlay(number: signal.Signals, iteration: int) -> str:
        handler = {"_target_": "interruption.Interruption", "number": int(number), "iteration": iteration}
        path = tmp_path / f"{number.name}.json"
        path.write_text(json.dumps({"+train#handlers": [handler]}))
        return str(path)

    return overlay


def tensors(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of nested mappings and lists with their names."""
    if isinstance(content, (dict, list, tuple)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from tensors(value, f"{name}/{key}")
    else:
        yield name, content


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer and metrics of two runs are equal to the bit, but for the seconds."""
    for name in ("run/last.pt", "run/best.pt", "models/model.pt"):
        values = [dict(tensors(read_file(folder / name))) for folder in (one, other)]
        assert values[0].keys() == values[1].keys()
        differing = [
            key
            for key, value in values[0].items()
            if not (torch.equal(value, values[1][key]) if torch.is_tensor(value) else value == values[1][key])
        ]
        assert not differing, f"{name}: {differing[:5]}"
    tables = [list(csv.DictReader((folder / "run/metrics.csv").open())) for folder in (one, other)]
    for row in tables[0] + tables[1]:
        assert float(row.pop("seconds")) >= 0
    assert tables[0] == tables[1]
    assert [row["epoch"] for row in tables[0]] == [str(e + 1) for e in range(len(tables[0]))]


def folders(top: Path) -> dict[str, str]:
    return {"output_dir": str(top / "run"), "ckpt_dir": str(top / "models")}


def test_killed_and_interrupted_run_equals_an_unbroken_one(
    run_training: Train, training_command: Callable[..., list[str]], interruption: Callable[..., str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Killed in epoch 2, ended by SIGTERM in epoch 3 and by Ctrl-C in epoch 4, of three iterations each."""
    broken = DEFAULTS | folders(tmp_path / "broken")
    run_training(**DEFAULTS, **folders(tmp_path / "unbroken"))
    killed = subprocess.run(training_command(interruption(signal.SIGKILL, 5), **broken), capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(SystemExit) as caught:
        run_training("training", interruption(signal.SIGTERM, 8), **broken, resume=True)
    assert caught.value.code == 128 + signal.SIGTERM
    assert "interrupted in epoch 3 of 4; 2 epochs are saved in" in caplog.text
    assert "run the same command with --resume true" in caplog.text
    assert not (tmp_path / "broken/models/model.pt").exists()  # an unfinished run serves nothing
    with pytest.raises(KeyboardInterrupt):
        run_training("training", interruption(signal.SIGINT, 11), **broken, resume=True)
    assert "interrupted in epoch 4 of 4; 3 epochs are saved in" in caplog.text
    run_training(**broken, resume=True)
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
