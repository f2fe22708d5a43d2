# SPDX-License-Identifier: Apache-2.0
"""Weights answer what their training items taught, on files as in evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import run

from bundle.networks.weights import read_file

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
EVALUATE = str(CONFIGS / "evaluate.yaml")
Train = Callable[..., None]


def answers(folder: Path, images: Path) -> list[dict[str, Any]]:
    """Folder inference with the weights that the training in ``folder`` serves."""
    options = {"bundle_root": str(CONFIGS.parent), "ckpt_dir": str(folder / "models"), "num_workers": 0}
    where = {"dataset_dir": str(images), "output_dir": str(folder / "out")}
    run(config_file=str(CONFIGS / "inference.yaml"), logging_file=False, **options, **where)
    found: list[dict[str, Any]] = json.loads((folder / "out/predictions.json").read_text())["images"]
    return found


def heads(folder: Path) -> list[str]:
    return list(read_file(folder / "models/model.pt")["network_config"]["heads"])


def manifest_with(tiny_data: Path, folder: Path, **changes: Any) -> str:
    """A copy of the manifest in a folder whose items of breasts have more keys."""
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    for item in manifest["items"]:
        item |= changes if item["dataset"] == "Breast" else {}
    folder.mkdir()
    (folder / "datalist.json").write_text(json.dumps({**manifest, "root": str(tiny_data)}))
    return str(folder)


@pytest.fixture
def images(tiny_data: Path, tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes((tiny_data / "Breast0.png").read_bytes())
    return tmp_path / "images"


def test_without_positions_no_organ_hides_what_was_learned(
    run_training: Train, tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run_training(tmp_path, neutral_positions=["breast", "limb", "lung"], max_epochs=1)
    assert "no training item is labeled for cls_gallbladder, organ, points:" in caplog.text
    assert heads(tmp_path) == ["seg", "cls_breast", "cls_lung", "presence"]
    [record] = answers(tmp_path, images)
    assert "organ" not in record
    assert set(record["classes"]) == {"breast", "lung"}
    run_training(tmp_path, EVALUATE, run_id="evaluating", output_dir=str(tmp_path / "eval"), bootstrap_resamples=20)


def test_classes_alone_give_weights_without_masks(
    run_training: Train, tiny_data: Path, tmp_path: Path, images: Path
) -> None:
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    manifest["items"] = [item for item in manifest["items"] if item["dataset"] == "Breast"]
    for item in manifest["items"]:
        del item["label"]
    manifest |= {"root": str(tiny_data), "datasets": {"Breast": dict(manifest["datasets"]["Breast"])}}
    del manifest["datasets"]["Breast"]["mask_values"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/datalist.json").write_text(json.dumps(manifest))
    run_training(tmp_path, dataset_dir=str(tmp_path / "data"), max_epochs=1)
    assert heads(tmp_path) == ["cls_breast", "presence"]  # a normal breast has no lesion; one organ is no question
    [record] = answers(tmp_path, images)
    assert set(record["classes"]) == {"breast"}
    assert "areas" not in record


def test_points_of_the_training_need_no_flag_later(
    run_training: Train, tiny_data: Path, tmp_path: Path, images: Path
) -> None:
    data = manifest_with(tiny_data, tmp_path / "data", points={"tip": [9, 9]})
    run_training(tmp_path, dataset_dir=data, max_epochs=1, **{"tasks#points#points": {"breast": ["tip"]}})
    [record] = answers(tmp_path, images)
    assert set(record["points"]) == {"tip"}
    options = {"output_dir": str(tmp_path / "eval"), "bootstrap_resamples": 20, "dataset_dir": data}
    run_training(tmp_path, EVALUATE, run_id="evaluating", **options)
    assert "tip" in (tmp_path / "eval/results.md").read_text()


def test_rows_without_a_label_are_not_answered(
    run_training: Train, tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_training(tmp_path, max_epochs=1, **{"organs#spleen": {"structures": ["spleen"], "classes": ["well", "ill"]}})
    assert "no training item is labeled for head, spleen of seg: do not rely" in caplog.text
    found = read_file(tmp_path / "models/model.pt")["network_config"]["heads"]
    assert found["presence"] == ["lesion", "nerve", "vessel"]
    assert found["organ"] == ["breast", "limb", "lung"]
    assert "cls_spleen" not in found
    [record] = answers(tmp_path, images)
    assert list(record["organ"]["probabilities"]) == ["breast", "limb", "lung"]
    assert record["presence"]["spleen"] is None
    run_training(tmp_path, EVALUATE, run_id="evaluating", output_dir=str(tmp_path / "eval"), bootstrap_resamples=20)
