# SPDX-License-Identifier: Apache-2.0
"""Probes are fitted on other patients than they are scored on, whatever the source of encoder and images."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.networks import build_encoder, build_uperconvnext
from bundle.pretraining.probing import Encoding, Question, probe, question_of_ultrabench
from bundle.pretraining.start import timm_encoder
from tests.pretraining.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("probe")


def question(patients: int, images: int, **changes: Any) -> Question:
    items = [
        {
            "image": f"{n}.png",
            "item": f"{n}.png",
            "dataset": "d",
            "patient": f"p{n // images}",
            "group": f"p{n // images}",
        }
        for n in range(patients * images)
    ]
    truth = [n // images % 2 for n in range(patients * images)]
    return Question("d", "s", ["a", "b"], items, truth, **changes)


def test_what_tells_a_patient_tells_no_class_of_another() -> None:
    """Features that name the patient alone would give 1.0, were its images on both sides."""
    asked = question(patients=40, images=5)
    random = np.random.default_rng(0)
    own = random.normal(size=(40, 60)).repeat(5, axis=0).astype(np.float32)
    for row in probe(asked, own, folds=5, neighbors=3, seed=0, resamples=50):
        assert 0.2 < row["auroc"]["value"] < 0.8
        assert (row["images"], row["patients"]) == (200, 40)


def test_features_that_tell_the_class_are_found() -> None:
    asked = question(patients=20, images=2)
    random = np.random.default_rng(0)
    told = random.normal(size=(40, 8)).astype(np.float32)
    told[:, 0] += 8 * np.array(asked.truth)
    rows = probe(asked, told, folds=4, neighbors=3, seed=0, resamples=50)
    assert [row["probe"] for row in rows] == ["linear", "3 neighbors"]
    assert rows[0]["auroc"]["value"] > 0.99
    assert rows[0]["f1"]["value"] > 0.95


def test_a_split_of_others_is_kept() -> None:
    test = [n % 4 == 0 for n in range(40)]
    rows = probe(
        question(20, 2, test=test), np.random.rand(40, 4).astype(np.float32), folds=5, neighbors=3, seed=0, resamples=20
    )
    assert {row["images"] for row in rows} == {10}


def test_too_few_patients_are_named() -> None:
    with pytest.raises(ValueError, match="d has one patient alone of a"):
        probe(question(2, 4), np.zeros((8, 2), np.float32), folds=5, neighbors=3, seed=0, resamples=20)


@pytest.fixture
def processed(tmp_path: Path) -> Path:
    """A data set as ultrabench writes it: frames of videos, with the file that they are of."""
    folder = tmp_path / "pocus_v1"
    (folder / "images").mkdir(parents=True)
    for part, count in (("train_val", 12), ("test", 6)):
        entries = []
        for n in range(count):
            label = n // 2 % 2
            name = f"images/{part}_{n}.png"
            Image.fromarray(np.full((40, 56), 60 + 120 * label, np.uint8)).save(folder / name)
            told = {"pathology": ["regular", "covid"][label], "label": label, "scan_mask": "masks/scan/x.png"}
            entries.append({"source": f"{part}{n // 2}.mp4", "image": name, **told})
        (folder / f"{part}.json").write_text(json.dumps(entries))
    return folder


def test_ultrabench_files_give_their_split_and_patients(processed: Path) -> None:
    asked = question_of_ultrabench(processed)
    assert (asked.dataset, asked.classes, asked.test) == ("pocus_v1", ["regular", "covid"], [False] * 12 + [True] * 6)
    assert len({item["patient"] for item in asked.items}) == 9
    (processed / "test.json").write_text("{}")
    with pytest.raises(ValueError, match=r"test\.json: expected a list of objects with image and label"):
        question_of_ultrabench(processed)


def test_encoders_of_every_kind(
    tmp_path: Path, processed: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = build_encoder("test_convnext")
    state, config = timm_encoder(encoder, encoder.config()).values()
    torch.save({"model": state, "network_config": {**config, "learned_from": ["pocus_v1"]}}, tmp_path / "encoder.pt")
    torch.save(state, tmp_path / "state.pth")
    sources = ["test_convnext", f"test_convnext={tmp_path / 'state.pth'}", str(tmp_path / "encoder.pt")]
    out = tmp_path / "out"
    options = ["--ultrabench", str(processed), "--image_size", "64", "--neighbors", "3", "--resamples", "20"]
    assert script.main([*sources, *options, "--output_dir", str(out)]) == 0
    with (out / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seen"] for row in rows] == ["no", "no", "unknown", "unknown", "yes", "yes"]
    assert rows[2]["auroc"] == rows[4]["auroc"]  # the same weights
    assert "| pocus_v1 | regular, covid | 6 | 3 |" in capsys.readouterr().out
    assert script.main([str(tmp_path / "state.pth"), *options]) == 2
    assert "write NAME=" in capsys.readouterr().err
    assert script.main(["test_convnext", "--output_dir", str(tmp_path / "none")]) == 2
    assert "--dataset_dir or --ultrabench must name a folder" in capsys.readouterr().err


def test_a_manifest_is_asked_by_data_set(
    tiny_data: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--folds", "2", "--image_size", "64", "--neighbors", "2", "--resamples", "20"]
    assert script.main(["test_convnext", "--dataset_dir", str(tiny_data), *options, "--output_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "| Breast | normal, benign, malignant | 9 | 9 | test_convnext | no | linear |" in shown
    assert script.main(["test_convnext", "--dataset_dir", str(tiny_data), "--folds", "1"]) == 2


def test_an_image_that_cannot_be_read_does_not_cost_the_others(
    tiny_data: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    items = json.loads((data / "datalist.json").read_text())["items"]
    lost = data / next(item["image"] for item in items if item["dataset"] == "Breast" and item["split"] == "val")
    lost.write_bytes(lost.read_bytes()[:60])
    options = ["--folds", "2", "--image_size", "64", "--neighbors", "2", "--resamples", "20"]
    assert script.main(["test_convnext", "--dataset_dir", str(data), *options, "--output_dir", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "| Breast | normal, benign, malignant | 8 | 8 | test_convnext" in shown.out
    assert f"left out, as it could not be read: {lost}: " in shown.err


def test_weights_of_a_training_that_takes_clicks_are_probed(tmp_path: Path) -> None:
    network = build_uperconvnext(
        encoder="test_convnext", decoder_channels=8, structures=["background", "lesion"], label_sets={},
        positions=["breast", "indis"], guidance_channels=2,
    )  # fmt: skip
    config = {**network.network_config(), "image_size": 64}
    torch.save({"model": network.state_dict(), "network_config": config}, tmp_path / "model.pt")
    encoding, image = Encoding(str(tmp_path / "model.pt")), torch.rand(2, 3, 64, 64)
    told = network.eval().encoder((image - encoding.mean) / encoding.std)[0][-1].mean((2, 3))
    assert torch.allclose(encoding(image), told, atol=1e-5)


def test_random_weights_have_seen_nothing() -> None:
    encoding = Encoding("test_convnext")
    assert encoding.seen == []
    assert encoding(torch.rand(2, 3, 64, 64)).shape == (2, 64)
