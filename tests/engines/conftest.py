# SPDX-License-Identifier: Apache-2.0
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import run
from PIL import Image

from tests.engines.saved_labels import NAMES, NO_ORGAN, TRAIN

Train = Callable[..., None]


@pytest.fixture
def interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes an overlay whose handler sends its process a signal in the middle of an epoch; gives its path."""
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
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore it

    def overlay(number: signal.Signals, iteration: int) -> str:
        handler = {"_target_": "interruption.Interruption", "number": int(number), "iteration": iteration}
        path = tmp_path / f"{number.name}.json"
        path.write_text(json.dumps({"+train#handlers": [handler]}))
        return str(path)

    yield overlay
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six studies with a bright square, and their labels, as MONAI Label keeps them."""
    folder, random = tmp_path_factory.mktemp("studies"), np.random.default_rng(0)
    (folder / "labels/final").mkdir(parents=True)
    for name in NAMES:
        image = random.integers(0, 90, (40, 56), np.uint8)
        mask, (top, left) = np.zeros_like(image), random.integers(2, 14, 2)
        image[top : top + 20, left : left + 24] += 120
        mask[top : top + 20, left : left + 24] = 1
        Image.fromarray(image).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / f"labels/final/{name}.png")
    return folder


@pytest.fixture
def train(run_training: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """Trains on all labels of a folder as MONAI Label does, to tmp_path, epochs of a step; gives what was logged."""

    def train(studies: Path, *, val: int = 1, epochs: int = 1, **changes: Any) -> str:
        items = [
            {"image": str(studies / label.name), "label": str(label)}
            for label in sorted((studies / "labels/final").glob("*.png"))
        ]
        caplog.clear()
        given = {"train#dataset#data": items[val:], "validate#dataset#data": items[:val]}
        with caplog.at_level(logging.INFO):
            options = {"device": "cpu", "train#trainer#max_epochs": epochs, "labels_steps": 1, **NO_ORGAN, **given}
            options |= changes
            run_training(tmp_path, run_id="run", **options)
        return caplog.text

    return train


@pytest.fixture
def served(tmp_path: Path) -> Callable[[], bytes]:
    """Gives the content of the served weights."""
    return (tmp_path / "models/model.pt").read_bytes


@pytest.fixture(scope="session")
def trained(
    studies: Path, tiny_options: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Weights that know the squares, of three epochs on them."""
    folder = tmp_path_factory.mktemp("trained")
    items = [{"image": str(studies / f"{n}.png"), "label": str(studies / f"labels/final/{n}.png")} for n in NAMES]
    given = {
        "train#dataset#data": items,
        "validate#dataset#data": [],
        "train#trainer#max_epochs": 3,
        "labels_learning_rate": 0.001,
        **NO_ORGAN,
    }
    run("run", config_file=TRAIN, logging_file=False, **tiny_options(folder, **given))
    return folder / "models/model.pt"
