# SPDX-License-Identifier: Apache-2.0
"""Which run a checkpoint is of, and that no other one resumes from it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.networks.weights import read_file
from tests.engines.interrupted import Train, stop_in_epoch_2


def copy_data(data: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a data set elsewhere, and its manifest."""
    shutil.copytree(data, folder)
    return folder, json.loads((folder / "datalist.json").read_text())


def with_a_changed_class(folder: Path, manifest: dict[str, Any]) -> None:
    item = next(item for item in manifest["items"] if item["dataset"] == "Breast" and item["class"] == "benign")
    item["class"] = "malignant"


def with_one_item_less(folder: Path, manifest: dict[str, Any]) -> None:
    manifest["items"].remove(next(item for item in manifest["items"] if item["dataset"] == "Limb"))


def with_a_repainted_mask(folder: Path, manifest: dict[str, Any]) -> None:
    mask = folder / next(item["label"] for item in manifest["items"] if item["split"] == "val")
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)


def with_an_inverted_image(folder: Path, manifest: dict[str, Any]) -> None:
    """Its file keeps its size."""
    image = folder / next(item["image"] for item in manifest["items"] if item["dataset"] == "Breast")
    content = bytearray(image.read_bytes())
    content[-20] ^= 255
    image.write_bytes(content)


def test_another_run_is_not_resumed(
    run_training: Train, interruption: Callable[..., str], tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    """What differs is named with both values."""
    stop_in_epoch_2(run_training, interruption, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    overlay = tmp_path / "flip.json"
    overlay.write_text(json.dumps({"random_geometry#flip_prob": 0.75}))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"decoder_channels": 24}, r"decoder_channels: run has 16, got 24; resume with --decoder_channels 16, or"),
        ({"batch_size": 2}, r"batch_size: run has 4, got 2; resume with --batch_size 4, or"),
        ({"max_epochs": 3}, r"max_epochs: run has 2, got 3; resume with --max_epochs 2"),
        ({"train#trainer#max_epochs": 3}, r"max_epochs: run has 2, got 3"),
        ({"learning_rate": 0.002}, r"learning_rate: run has 0\.001, got 0\.002"),
        (
            {"seed": 1, "drop_path": 0.1},
            r"seed: run has 0, got 1; drop_path: run has 0\.05, got 0\.1; resume",
        ),
        ({"task_weights": {"segmentation": 1.0}}, r"task_weights#classification: run has 0\.3, got nothing"),
        (
            {"gate": {"lesion": 0.5}},
            r"another: gate: run has None, got \{'lesion': 0\.5\}; resume with --gate '\$None', or",
        ),
        (
            {"absent_classes": "$None"},
            r"another: absent_classes: run has \{.*\}, got None; resume with --absent_classes ",
        ),
        ({"overlays": [str(overlay)]}, r"preprocessing#transforms#5#flip_prob: run has 0\.5, got 0\.75"),
        ({"lr_scheduler#power": 0.5}, r"lr_scheduler#lr_lambdas#0#power: run has 0\.9, got 0\.5"),
        ({"train#named_handlers#clipping#max_norm": 0.1}, r"settings#max_norm: run has 5\.0, got 0\.1"),
        ({"train#sampler#seed": 7}, r"settings#sampler#seed: run has 0, got 7"),
        ({"train#sampler#balance_patients": True}, r"settings#sampler#balance_patients: run has False, got True"),
        ({"average#decay": 0.1}, r"settings#ema_decay: run has 0\.995, got 0\.1"),
    ]
    for changes, message in cases:
        with pytest.raises(RuntimeError) as caught:
            run_training(tmp_path, *changes.pop("overlays", []), resume=True, **changes)
        assert f"{tmp_path}/run/last.pt must be of the run that is resumed, got another: " in reasons(caught.value)
        assert re.search(message, reasons(caught.value))
    assert {path: path.read_bytes() for path in before} == before


def test_other_data_does_not_resume_a_run_and_a_copy_does(
    run_training: Train, interruption: Callable[..., str], tiny_data: Path, tmp_path: Path,
    reasons: Callable[[BaseException], str],
) -> None:  # fmt: skip
    """Neither do other folders, more loaders or switches as text make another run."""
    stop_in_epoch_2(run_training, interruption, tmp_path)
    cases = [
        (with_a_changed_class, "training#Breast: run has 6 items .{8}, got 6 items"),
        (with_one_item_less, "training#Limb: run has 4 items .{8}, got 3 items"),
        (with_a_repainted_mask, "validation#Breast: run has 3 items .{8}, got 3 items"),
        (with_an_inverted_image, "training#Breast: run has 6 items .{8}, got 6 items"),
    ]
    for n, (change, message) in enumerate(cases):
        folder, manifest = copy_data(tiny_data, tmp_path / f"data{n}")
        change(folder, manifest)
        (folder / "datalist.json").write_text(json.dumps(manifest))
        with pytest.raises(RuntimeError) as caught:
            run_training(tmp_path, resume=True, dataset_dir=str(folder))
        assert re.search(rf"last\.pt must be of the run that is resumed.*: data#{message}", reasons(caught.value))

    folder, _ = copy_data(tiny_data, tmp_path / "copy")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    elsewhere = {"dataset_dir": str(folder), "output_dir": str(tmp_path / "moved"), "cache_memory_gb": 0.5}
    run_training(tmp_path, resume="true", amp="true", num_workers=1, **elsewhere)
    assert read_file(tmp_path / "moved/last.pt")["epoch"] == 2


def test_a_checkpoint_of_an_older_version_is_refused(
    run_training: Train, tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    run_training(tmp_path, max_epochs=1)
    state = read_file(tmp_path / "run/last.pt")
    names = ("encoder", "decoder_channels", "structures", "label_sets", "positions")
    options = state.pop("identity")["options"]
    torch.save({**state, "network_config": {name: options[name] for name in names}}, tmp_path / "run/last.pt")
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, resume=True, max_epochs=1)
    assert re.search(
        r"last\.pt must say what the run was trained with, got a file of version 0\.5\.2 or older.* --start_weights '",
        reasons(caught.value),
    )


def test_another_version_resumes_with_a_warning(
    run_training: Train, interruption: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop_in_epoch_2(run_training, interruption, tmp_path)
    state = read_file(tmp_path / "run/last.pt")
    state["identity"]["versions"]["bundle"] = "0.0.1"
    torch.save(state, tmp_path / "run/last.pt")
    run_training(tmp_path, resume=True)
    assert "the run was started with bundle 0.0.1; its other epochs follow bundle" in caplog.text


def test_without_the_best_weights_a_run_is_not_resumed(
    run_training: Train, interruption: Callable[..., str], tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    stop_in_epoch_2(run_training, interruption, tmp_path)
    (tmp_path / "run/best.pt").unlink()
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, resume=True)
    assert re.search(r"run/best\.pt expected beside last\.pt, found none: the best weights", reasons(caught.value))


def test_resuming_nothing_is_refused(
    run_training: Train, tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, resume=True)
    assert re.search(r"run/last\.pt expected to resume from, found none; start without --resume", reasons(caught.value))
