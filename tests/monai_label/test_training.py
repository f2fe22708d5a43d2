# SPDX-License-Identifier: Apache-2.0
"""What a MONAI Label server learns from saved labels, and which images it finds uncertain."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.monai_label.client import Server

pytestmark = pytest.mark.label
SCORES = re.compile(r"labels kept aside \(1\): former weights (\d\.\d{3}), new weights (\d\.\d{3}): the (\w+) weights")


def as_slicer_sends(server: Server, **chosen: Any) -> dict[str, Any]:
    """All options of the trainer; of a list of choices the first."""
    config = server.get("info/")["trainers"][server.model]["config"]
    return {key: value[0] if isinstance(value, list) else value for key, value in config.items()} | chosen


def trained_on(details: str) -> int:
    """How many saved labels a training took, beside the one that it kept aside."""
    found = re.search(r"saved labels: (\d+) to train on, 1 kept aside to compare weights on", details)
    assert found is not None, details
    return int(found[1])


@pytest.mark.parametrize("run_id", ["run", "training", ""])
def test_training_serves_the_better_weights_and_says_which(server: Server, labeled: list[str], run_id: str) -> None:
    previous = server.bundle / "models/previous"
    former, kept = server.weights, set(previous.glob("*"))
    options: dict[str, Any] = {"max_epochs": 2, "val_split": 0 if run_id == "run" else 0.25, "run_id": run_id}
    server.start("train", **(options if run_id else as_slicer_sends(server, **options)))
    state = server.finish("train")
    details = "\n".join(state["details"])
    assert state["status"] == "DONE", details
    assert trained_on(details) == len(labeled) - 1
    found = SCORES.search(details)
    assert found is not None, details
    better = float(found[2]) > float(found[1])
    assert better == (found[3] == "new")
    new = (server.bundle / "runs/train/best.pt").read_bytes()
    assert server.weights == (new if better else former)
    assert [path.read_bytes() for path in set(previous.glob("*")) - kept] == [former] * better
    with (server.bundle / "runs/train/metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert "Add Checkpoint Loader for Path" in server.printed.read_text()  # it starts from the served weights
    assert server.infer("many_2").mask.shape == (74, 112)
    assert {"model.pt"} == {path.name for path in (server.bundle / "models").glob("*.pt")}  # the shortest is served


def test_a_bad_label_is_left_out_and_named(
    server: Server, labeled: list[str], write: Callable[..., Path], tmp_path: Path
) -> None:
    server.save_label("many_4", write(tmp_path / "small.png", np.ones((30, 30), np.uint8)))
    server.start("train", max_epochs=1, val_split=0)
    state = server.finish("train")
    server.remove_label("many_4")
    assert state["status"] == "DONE"
    details = "\n".join(state["details"])
    assert re.search(r"label left out: .*many_4\.png: mask must have the size of its image", details)
    assert trained_on(details) == len(labeled) - 1


def test_a_request_for_all_models_is_one_training(server: Server, labeled: list[str]) -> None:
    """Each of the bundle's two names is queued."""
    server.call("POST", "train/", json={"device": "cpu", "max_epochs": 1, "val_split": 0.5})
    server.finish("train")
    first, second = ("\n".join(task["details"]) for task in server.get("train/", all="true")[-2:])
    assert SCORES.search(first)
    assert "nothing has changed since the last training, which is not repeated: mean Dice on the labels" in second


def test_scoring_gives_each_unlabeled_image_its_own_uncertainty(server: Server, labeled: list[str]) -> None:
    server.start("scoring", simulation_size=3, max_samples=6)  # on two threads
    state = server.finish("scoring")
    assert state["status"] == "DONE", "\n".join(state["details"])
    # what the scoring wrote: the server reads its list again when it hears of the change, at times late
    objects = json.loads((server.studies / "datastore_v2.json").read_text())["objects"]
    scores = {name: study["image"]["info"].get("epistemic_entropy") for name, study in objects.items()}
    found = {name: score for name, score in scores.items() if score is not None}
    assert len(found) == 6, "\n".join(state["details"])
    assert not set(found) & set(labeled)
    assert all(math.isfinite(score) and score > 0 for score in found.values())
    assert len(set(found.values())) == len(found)
