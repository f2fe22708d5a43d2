# SPDX-License-Identifier: Apache-2.0
"""The shipped train.yaml as MONAI Label runs it: which weights are served after a training, and what is said of it."""

import csv
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from bundle.data.labels import aside_names
from bundle.engines.served import image_dice
from bundle.networks.weights import read_file
from tests.engines.saved_labels import NAMES, TRAIN, serve

Train = Callable[..., None]
ASIDE = aside_names([f"{name}.png" for name in NAMES], 0.2)


def scores(text: str) -> tuple[float, float]:
    """Mean Dice of the former and of the new weights."""
    found = re.findall(r"labels kept aside \(1\): former weights (\d\.\d{3}), new weights (\d\.\d{3}): ", text)
    assert len(found) == 1
    return float(found[0][0]), float(found[0][1])


def test_better_weights_stay_served(
    train: Callable[..., str], studies: Path, trained: Path, served: Callable[[], bytes], tmp_path: Path
) -> None:
    serve(trained, tmp_path)
    text = train(studies, labels_learning_rate=1e-6)  # from random weights
    former, new = scores(text)
    assert former > 0.6 > new
    assert served() == trained.read_bytes()
    assert not (tmp_path / "models/previous").exists()
    command = f"cp {tmp_path}/run/best.pt {tmp_path}/models/model.pt"
    assert (
        f"the former weights stay served, the new ones are in {tmp_path}/run/best.pt, until the next training; to serve"
        f" them: {command}" in text
    )
    assert (tmp_path / "run/best.pt").read_bytes() != trained.read_bytes()


def test_better_new_weights_are_served_and_the_former_kept(
    train: Callable[..., str], studies: Path, served: Callable[[], bytes], tmp_path: Path
) -> None:
    assert "no weights were served so far: the new weights are served" in train(studies, labels_learning_rate=1e-6)
    former = served()
    text = train(studies, epochs=3, labels_steps=10, labels_learning_rate=0.001)
    before, after = scores(text)
    assert after > 0.6 > before
    assert "the new weights are served" in text
    assert served() == (tmp_path / "run/best.pt").read_bytes() != former
    assert [path.read_bytes() for path in (tmp_path / "models/previous").iterdir()] == [former]


def test_equal_weights_change_nothing(
    train: Callable[..., str], studies: Path, trained: Path, served: Callable[[], bytes], tmp_path: Path
) -> None:
    serve(trained, tmp_path)
    text = train(studies, start_weights=str(trained), labels_learning_rate=0.0)
    former, new = scores(text)
    assert former == new
    assert "the former weights stay served" in text
    assert served() == trained.read_bytes()


@pytest.mark.parametrize("val", [0, 1, 5])
def test_the_label_kept_aside_is_never_trained_on(
    train: Callable[..., str], studies: Path, tmp_path: Path, val: int
) -> None:
    """Whatever the client splits: its label, all vessel, would otherwise change the loss."""
    (name,) = ASIDE
    text = train(studies, val=val)
    assert f"saved labels: 5 to train on, 1 kept aside to compare weights on ({name}), 0 left out" in text
    first = (tmp_path / "run/metrics.csv").read_text().splitlines()[1].split(",")[:2]
    copy = tmp_path / "copy"
    shutil.copytree(studies, copy)
    Image.new("L", (56, 40), 4).save(copy / f"labels/final/{name}")
    train(copy, val=val)
    assert (tmp_path / "run/metrics.csv").read_text().splitlines()[1].split(",")[:2] == first


def test_the_bundles_own_validation_chooses_the_epoch_and_the_labels_decide(
    train: Callable[..., str], studies: Path, trained: Path, tmp_path: Path, tiny_data: Path
) -> None:
    """``val_split`` -1: MONAI Label gives no validation data."""
    serve(trained, tmp_path)
    manifest = ConfigParser.load_config_file(TRAIN)["validate"]["dataset"]["data"]
    text = train(studies, val=0, **{"validate#dataset#data": manifest, "dataset_dir": str(tiny_data)})
    assert "val_dice_Breast_lesion" in (tmp_path / "run/metrics.csv").read_text()
    assert "saved labels: 5 to train on, 1 kept aside" in text
    scores(text)


def test_an_epoch_has_ten_steps(train: Callable[..., str], studies: Path, tmp_path: Path) -> None:
    train(studies, epochs=2, labels_steps=10)
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]  # as many as the client said
    assert read_file(tmp_path / "run/last.pt")["lr_scheduler"]["last_epoch"] == 20
    assert ConfigParser.load_config_file(TRAIN)["labels_steps"] == 10


def test_saved_labels_have_their_own_learning_rate(
    train: Callable[..., str], studies: Path, tmp_path: Path, run_training: Train
) -> None:
    """The recipe's rate, made for random weights, ruins those that are served."""

    def peak(folder: Path) -> float:
        return float(read_file(folder / "run/last.pt")["optimizer"]["param_groups"][0]["initial_lr"])

    train(studies)
    assert peak(tmp_path) == ConfigParser.load_config_file(TRAIN)["labels_learning_rate"] < 0.001
    train(studies, labels_learning_rate=0.002, learning_rate=0.5)
    assert peak(tmp_path) == 0.002
    run_training(tmp_path / "manifest", learning_rate=0.003)
    assert peak(tmp_path / "manifest") == 0.003


def test_heads_that_the_served_weights_lack_are_not_made(
    train: Callable[..., str], studies: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved labels tell of masks only: an untrained organ head would decide what is reported."""
    content = read_file(trained)
    config = content["network_config"]
    assert {"seg", "presence", "points"} < set(config["heads"])
    kept = {name: rows for name, rows in config["heads"].items() if name not in ("presence", "points")}
    old = {k: v for k, v in content["model"].items() if not k.startswith(("heads.presence", "heads.points"))}
    (tmp_path / "models").mkdir()
    torch.save({"model": old, "network_config": {**config, "heads": kept}}, tmp_path / "models/model.pt")
    monkeypatch.setattr(sys, "argv", ["app.py", "-m", "train", "-r", '{"run_id": "run"}'])
    former, _ = scores(train(studies))  # they can be compared
    assert former > 0.6
    assert set(read_file(tmp_path / "run/best.pt")["network_config"]["heads"]) == set(kept)


def test_weights_of_another_network_are_replaced_and_it_is_said(
    train: Callable[..., str], studies: Path, trained: Path, served: Callable[[], bytes], tmp_path: Path
) -> None:
    serve(trained, tmp_path)
    text = train(studies, decoder_channels=24)
    assert re.search(
        r"the former weights cannot be compared \(.*model\.pt was made with decoder width 16; this network has decoder "
        r"width 24.*\): the new weights are served",
        text,
    )
    assert served() == (tmp_path / "run/best.pt").read_bytes()
    assert len(list((tmp_path / "models/previous").iterdir())) == 1


def test_one_label_replaces_nothing(
    train: Callable[..., str], studies: Path, trained: Path, served: Callable[[], bytes], tmp_path: Path
) -> None:
    serve(trained, tmp_path)
    (tmp_path / "copy/labels/final").mkdir(parents=True)
    for name in ("study0.png", "labels/final/study0.png"):
        shutil.copy(studies / name, tmp_path / "copy" / name)
    text = train(tmp_path / "copy", val=0)
    alone = "one label alone, none to compare weights on (save two or more)"
    assert f"{alone}: the former weights stay served, the new ones are in" in text
    assert served() == trained.read_bytes()


def test_bad_labels_are_named_in_the_last_lines(
    train: Callable[..., str], studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(studies, copy)
    for i in range(8):
        shutil.copy(copy / "study0.png", copy / f"bad{i}.png")
        Image.new("L", (9, 8)).save(copy / f"labels/final/bad{i}.png")
    train(copy, val=0)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("bundle.")][-9:]
    assert all(f"bad{i}.png: mask must have the size of its image" in lines[i] for i in range(6))
    assert lines[6] == "2 more labels left out, see the log"
    assert re.fullmatch(r"saved labels: 5 to train on, 1 kept aside .*, 8 left out", lines[7])
    assert lines[8].endswith("the new weights are served")


@pytest.mark.parametrize("server", [False, True])
def test_without_a_usable_label_nothing_is_trained_and_the_last_line_says_why(
    train: Callable[..., str], studies: Path, tmp_path: Path, trained: Path, served: Callable[[], bytes],
    monkeypatch: pytest.MonkeyPatch, reasons: Callable[[BaseException], str], server: bool,
) -> None:  # fmt: skip
    serve(trained, tmp_path)
    (tmp_path / "copy/labels/final").mkdir(parents=True)
    shutil.copy(studies / "study0.png", tmp_path / "copy/study0.png")
    (tmp_path / "copy/labels/final/study0.png").write_text("a mask")
    if server:
        monkeypatch.setattr(sys, "argv", ["app.py", "-m", "train", "-r", '{"run_id": "run"}'])
    for folder, message in (
        (tmp_path / "copy", r"got 1 that cannot: .*labels/final/study0\.png: must be a readable image"),
        (tmp_path / "none", r"training needs saved labels that can be used, got none; save them in the client"),
    ):
        with pytest.raises(SystemExit if server else RuntimeError) as caught:
            train(folder, val=0)
        told = str(caught.value) if server else reasons(caught.value)
        assert re.search(message, told)
        assert not re.search(r"\.[.;]", told)
    assert served() == trained.read_bytes()


def row(image: str, dice: float, truth: int, pred: int) -> dict[str, Any]:
    return {"image": image, "dice": dice, "truth_pixels": truth, "pred_pixels": pred}


def test_image_dice_counts_misses_false_alarms_and_silence() -> None:
    rows = [
        row("two structures", 0.8, 50, 40), row("two structures", 0.4, 50, 40), row("two structures", 1.0, 0, 0),
        row("false alarm", 0.0, 0, 7), row("false alarm", 1.0, 0, 0),
        row("missed", 0.0, 9, 0),
        row("nothing there", 1.0, 0, 0),
    ]  # fmt: skip
    assert image_dice(rows) == pytest.approx((0.6 + 0.0 + 0.0 + 1.0) / 4)
