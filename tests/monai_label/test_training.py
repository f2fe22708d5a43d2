# SPDX-License-Identifier: Apache-2.0
"""What a MONAI Label server learns from saved labels, and which images it finds uncertain."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.monai_label.conftest import Server

pytestmark = pytest.mark.label


def as_slicer_sends(server: Server, **chosen: Any) -> dict[str, Any]:
    """All options of the trainer; of a list of choices the first."""
    config = server.get("info/")["trainers"][server.model]["config"]
    return {key: value[0] if isinstance(value, list) else value for key, value in config.items()} | chosen


@pytest.mark.parametrize("run_id", ["run", "training", ""])
def test_training_serves_new_weights_once_and_keeps_the_former(server: Server, labeled: list[str], run_id: str) -> None:
    previous = server.bundle / "models/previous"
    former, kept = server.weights, set(previous.glob("*"))
    options: dict[str, Any] = {"max_epochs": 2, "val_split": 0 if run_id == "run" else 0.25, "run_id": run_id}
    server.start("train", **(options if run_id else as_slicer_sends(server, **options)))
    state = server.finish("train")
    assert state["status"] == "DONE", "\n".join(state["details"])
    assert server.weights != former
    assert [path.read_bytes() for path in set(previous.glob("*")) - kept] == [former]  # one training: one former file
    with (server.bundle / "runs/train/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert bool(rows[-1].get("val_dice")) == (run_id != "run")
    assert server.infer("many_2").mask.shape == (74, 112)
    assert {"model.pt"} == {path.name for path in (server.bundle / "models").glob("*.pt")}  # the shortest is served


def test_failed_training_leaves_the_weights(
    server: Server, labeled: list[str], write: Callable[..., Path], tmp_path: Path
) -> None:
    weights = server.weights
    server.save_label("many_4", write(tmp_path / "small.png", np.ones((30, 30), np.uint8)))
    server.start("train", max_epochs=1, val_split=0)
    state = server.finish("train")
    server.remove_label("many_4")
    assert state["status"] == "ERROR"
    assert "many_4.png: mask must have the size of its image" in server.printed.read_text()
    assert server.weights == weights


def test_scoring_gives_each_unlabeled_image_its_own_uncertainty(server: Server, labeled: list[str]) -> None:
    server.start("scoring", simulation_size=3, max_samples=6)  # on two threads
    state = server.finish("scoring")
    assert state["status"] == "DONE", "\n".join(state["details"])
    objects = server.get("datastore/", output="all")["objects"]
    scores = {name: study["image"]["info"].get("epistemic_entropy") for name, study in objects.items()}
    found = {name: score for name, score in scores.items() if score is not None}
    assert len(found) == 6
    assert not set(found) & set(labeled)
    assert all(math.isfinite(score) and score > 0 for score in found.values())
    assert len(set(found.values())) == len(found)
