# SPDX-License-Identifier: Apache-2.0
"""The shipped train.yaml, run as users and MONAI Label run it, and what it leaves behind."""

import csv
import hashlib
import json
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle.networks.weights import load_network, read_file

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TRAIN, EVALUATE, PAPER = (str(CONFIGS / name) for name in ("train.yaml", "evaluate.yaml", "paper.yaml"))
Train = Callable[..., None]


class Done(NamedTuple):
    """A finished training: its folder, its two streams, and the weights that were served before it."""

    folder: Path
    stdout: str
    stderr: str
    former: bytes


@pytest.fixture(scope="module")
def trained(training_command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Done:
    """``python -m monai.bundle run training`` from another folder, where other weights are served so far."""
    folder = tmp_path_factory.mktemp("with blanks in its name")
    (folder / "models").mkdir()
    (folder / "models/model.pt").write_bytes(former := b"weights of an earlier training")
    done = subprocess.run(training_command(folder), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return Done(folder, done.stdout, done.stderr, former)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "run/metrics.csv").open()))


def test_the_best_weights_are_served_with_their_network(trained: Done) -> None:
    content = read_file(trained.folder / "models/model.pt")
    config = content["network_config"]
    assert all(config[name] for name in ("version", "heads", "parts", "organs", "image_mean"))
    assert (config["encoder"], config["decoder_channels"], config["image_size"]) == ("test_convnext", 16, 64)
    parser = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "inference.yaml")))
    parser.update({"bundle_root": str(CONFIGS.parent), "ckpt_path": str(trained.folder / "models/model.pt")})
    network = parser.get_parsed_content("network_def")
    load_network(network, trained.folder / "models/model.pt")
    assert torch.isfinite(network(torch.rand(1, 3, 64, 64))).all()
    assert (trained.folder / "run/best.pt").read_bytes() == (trained.folder / "models/model.pt").read_bytes()


def test_metrics_have_a_row_per_epoch(trained: Done) -> None:
    found = rows(trained.folder)
    assert list(found[0]) == [
        "epoch", "loss", "learning_rate", "seconds", "val_score", "val_dice", "val_auroc", "val_dice_Breast_lesion",
        "val_dice_Limb_nerve", "val_auroc_breast", "val_accuracy_breast", "val_organ_accuracy",
        "val_presence_Breast_lesion",
    ]  # fmt: skip
    assert [row["epoch"] for row in found] == ["1", "2"]
    for row in found:
        values = {name: float(value) for name, value in row.items()}
        assert all(math.isfinite(value) for value in values.values())
        assert all(0 <= value <= 1 for name, value in values.items() if name.startswith("val_"))
        assert values["val_score"] == pytest.approx((values["val_dice"] + values["val_auroc"]) / 2, abs=1e-4)


def test_tensorboard_has_the_loss_of_each_iteration_and_the_metrics_of_each_epoch(trained: Done) -> None:
    steps = {}
    for log in (trained.folder / "run/tensorboard").iterdir():
        events = EventAccumulator(str(log)).Reload()
        steps |= {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert steps["train_loss"] == [1, 2, 3, 4, 5, 6]
    assert steps["val_score"] == steps["val_dice"] == steps["val_auroc"] == [1, 2]


def test_contact_sheet_is_a_picture(trained: Done) -> None:
    with Image.open(trained.folder / "run/contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 200
        assert len(sheet.convert("L").getcolors()) > 10


def test_progress_and_last_the_paths_are_printed(trained: Done) -> None:
    assert re.search(r"Epoch \[2/2\].* 100%.*loss=\d.*, Dice=\d.*, AUROC=\d", trained.stderr)
    assert re.search(r"epoch 1/2: loss \d\.\d+, val_score 0\.\d+, val_dice 0\.\d+, val_auroc [01]\.\d+", trained.stdout)
    paths = ["models/model.pt", "run/metrics.csv", "run/tensorboard", "run/contact_sheet.png"]
    for line, path in zip(trained.stdout.splitlines()[-4:], paths, strict=True):
        assert line.endswith(f": {trained.folder / path}")
        assert (trained.folder / path).exists()


def test_the_printed_command_brings_the_former_weights_back(trained: Done, tmp_path: Path) -> None:
    copy = tmp_path / "a copy"
    shutil.copytree(trained.folder, copy)
    found = re.search(r"moved the former .* to .*/previous/.*; to bring it back: (cp .*)", trained.stdout)
    assert found is not None
    subprocess.run(found[1].replace(str(trained.folder), str(copy)), shell=True, check=True)
    assert (copy / "models/model.pt").read_bytes() == trained.former
    assert [path.name for path in (copy / "models").glob("*.pt")] == ["model.pt"]  # MONAI Label serves the shortest


def test_trained_weights_evaluate(trained: Done, run_training: Train) -> None:
    out, weights = trained.folder / "eval", trained.folder / "models/model.pt"
    run_training(trained.folder, EVALUATE, run_id="evaluating", output_dir=str(out), bootstrap_resamples=20)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["split"] == "test"
    assert summary["images"] == 4
    assert summary["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (out / "results.md").is_file()


@pytest.mark.parametrize("run_id", ["run", "training", ""])
def test_each_run_id_trains_once(
    run_training: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, run_id: str
) -> None:
    """README's name, MONAI Label's, and 3D Slicer's, which makes MONAI evaluate the whole config."""
    with caplog.at_level(logging.INFO):
        run_training(tmp_path, run_id=run_id, max_epochs=1)
    assert caplog.text.count("epoch 1/1: loss") == 1
    assert len(rows(tmp_path)) == 1


def test_the_papers_recipe_trains(run_training: Train, tmp_path: Path) -> None:
    run_training(tmp_path, PAPER, max_epochs=1)
    row = rows(tmp_path)[0]
    assert 0 <= float(row["val_dice_Breast_foreground"]) <= 1
    assert 0 <= float(row["val_accuracy_four"]) <= 1
    assert read_file(tmp_path / "models/model.pt")["network_config"]["conditioning"] == "additive"


def label_request(tiny_data: Path, *, val: int) -> dict[str, Any]:
    """What MONAI Label sets in train.yaml: images and label maps alone, the device's name, epochs under the trainer."""
    items = json.loads((tiny_data / "datalist.json").read_text())["items"]
    given = [
        {key: str(tiny_data / item[key]) for key in ("image", "label")} for item in items if item["dataset"] == "Limb"
    ]
    return {
        "run_id": "run",
        "device": "cpu",
        "train#trainer#max_epochs": 1,
        "train#dataset#data": given[val:],
        "validate#dataset#data": given[:val],
    }


def test_monai_labels_request_trains(run_training: Train, tiny_data: Path, tmp_path: Path) -> None:
    run_training(tmp_path, **label_request(tiny_data, val=2))
    assert [row["epoch"] for row in rows(tmp_path)] == ["1"]
    assert (tmp_path / "models/model.pt").is_file()


def test_without_validation_items_the_newest_weights_are_served(
    run_training: Train, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run_training(tmp_path, **(label_request(tiny_data, val=0) | {"train#trainer#max_epochs": 2}))
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2"]
    served, last = read_file(tmp_path / "models/model.pt")["model"], read_file(tmp_path / "run/last.pt")["average"]
    assert all(torch.equal(value, last[f"module.{name}"]) for name, value in served.items())
    assert f"contact sheet: {tmp_path}/run/contact_sheet.png (not written)" in caplog.text


def test_fine_tuning_starts_from_the_served_weights(
    run_training: Train, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MONAI Label puts a CheckpointLoader before the handlers; without learning nothing then changes the weights."""
    run_training(tmp_path, max_epochs=1, seed=1)
    first = read_file(tmp_path / "models/model.pt")["model"]
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(tmp_path / "models/model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    handlers = [loader, *ConfigParser.load_config_file(TRAIN)["train"]["handlers"]]
    request = label_request(tiny_data, val=1) | {"train#handlers": handlers}
    monkeypatch.setattr(sys, "argv", ["app.py", "-r", json.dumps({"model": "ultrasound", "max_epochs": 1})])
    run_training(tmp_path, labels_learning_rate=0.0, **request)
    second = read_file(tmp_path / "models/model.pt")["model"]
    assert all(torch.equal(value, second[name]) for name, value in first.items())
