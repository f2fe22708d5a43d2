# SPDX-License-Identifier: Apache-2.0
"""What organs show, in training and in inference, with the shipped configs."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import run
from PIL import Image

from bundle.data.datalist import load_split
from bundle.networks.weights import read_checkpoint
from bundle.vocabulary import Organs

ROOT = Path(__file__).resolve().parents[2]
TABLE: dict[str, Any] = {
    "breast": {"structures": ["lesion"], "classes": ["normal", "benign", "malignant"]},
    "thyroid": {},
    "head": {"structures": ["head"]},
    "indis": {},
    "limb": {"structures": ["nerve", "vessel", "nodule"]},
    "lung": {"classes": ["healthy", "pneumonia", "covid-19"]},
}


@pytest.fixture
def neck(tiny_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Gives the tiny data with a set of masks of a nodule in place of the one of limbs."""

    def make(*, positions: Sequence[str] = ("thyroid",), structure: str = "nodule", masks: bool = True) -> Path:
        shutil.copytree(tiny_data, tmp_path / "data")
        manifest = json.loads((tmp_path / "data/datalist.json").read_text())
        values = {"0": "background", "1": structure, "2": structure}
        manifest["datasets"]["Limb"] |= {"position": positions[0], "mask_values": values}
        limbs = [item for item in manifest["items"] if item["dataset"] == "Limb"]
        for n, item in enumerate(limbs):
            item["position"] = positions[n % len(positions)]
            if not masks:
                del item["label"]
        (tmp_path / "data/datalist.json").write_text(json.dumps(manifest))
        return tmp_path / "data/datalist.json"

    return make


def load(datalist: Path, **changes: Any) -> None:
    load_split(datalist, split="train", organs=Organs(TABLE | changes))


@pytest.mark.parametrize("run_id", ["training", "evaluating"])
def test_training_and_evaluation_name_the_organ_and_the_line_to_write(
    neck: Callable[..., Path], tiny_options: Callable[..., dict[str, Any]], tmp_path: Path,
    reasons: Callable[[BaseException], str], run_id: str,
) -> None:  # fmt: skip
    files = [str(ROOT / f"configs/{name}.yaml") for name in ("train", "evaluate")]
    options = tiny_options(tmp_path, dataset_dir=str(neck().parent))
    with pytest.raises(RuntimeError) as caught:
        run(
            run_id,
            config_file=files if run_id == "evaluating" else files[0],
            logging_file=False,
            organs=TABLE,
            **options,
        )
    assert (
        "dataset 'Limb': organs must let one of its positions ['thyroid'] show ['nodule'], of which it has masks and "
        "which would never be predicted; write 'thyroid: {structures: [nodule]}' in organs in the config."
    ) in reasons(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_line_makes_it_train(neck: Callable[..., Path], run_training: Callable[..., None], tmp_path: Path) -> None:
    line = {"organs#thyroid": {"structures": ["nodule"]}}
    run_training(tmp_path, dataset_dir=str(neck().parent), max_epochs=1, **line)
    config = read_checkpoint(tmp_path / "models/model.pt")[1]
    assert config["structures"] == ["background", "lesion", "nodule", "head", "nerve", "vessel"]
    assert config["organs"]["thyroid"] == {"structures": ["nodule"]}


def test_an_organ_must_show_what_its_set_has_masks_of(neck: Callable[..., Path]) -> None:
    message = r"one of its positions \['thyroid'\] show \['nodule'\].*write 'thyroid: \{structures: \[head, nodule\]\}'"
    with pytest.raises(ValueError, match=message):
        load(neck(), thyroid={"structures": ["head"]})


@pytest.mark.parametrize("places", [("thyroid", "breast"), ("thyroid", "unknown"), ("unknown",), ("indis",)])
def test_a_set_of_several_places_needs_one_that_shows_it(neck: Callable[..., Path], places: Sequence[str]) -> None:
    load(neck(positions=places), thyroid={"structures": ["nodule"]})


def test_a_structure_may_be_shown_by_several_organs(neck: Callable[..., Path]) -> None:
    datalist = neck(structure="lesion")
    with pytest.raises(ValueError, match=r"\['thyroid'\] show \['lesion'\].*'thyroid: \{structures: \[lesion\]\}'"):
        load(datalist)
    load(datalist, thyroid={"structures": ["lesion"]})


def test_organs_without_masks_need_to_show_nothing(neck: Callable[..., Path]) -> None:
    load(neck(masks=False))


@pytest.mark.parametrize(
    ("position", "shown"),
    [("breast", {"lesion"}), ("limb", {"nerve", "vessel"}), ("lung", set()), ("unknown", None)],
)
def test_an_organ_shows_its_structures_and_no_others(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture, position: str, shown: set[str] | None
) -> None:
    predict(tmp_path, weights, position=position)
    found, _ = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert not found["error"]
    seen = {name for name, area in found["areas"].items() if area["pixels"]}
    assert seen <= {"lesion", "head", "nerve", "vessel"} if shown is None else seen <= shown
    assert "neither structures nor classes" not in caplog.text  # lung has classes


SILENT = "['thyroid'] have neither structures nor classes in the organs of the weights"


def test_a_position_of_which_nothing_is_reported_ends_the_run_at_its_start(
    tmp_path: Path, weights: Path, reasons: Callable[[BaseException], str]
) -> None:
    with pytest.raises(RuntimeError) as caught:
        predict(tmp_path, weights, position="thyroid")
    assert SILENT in reasons(caught.value)
    assert "Train on them with --organs#thyroid \"{'structures': [...]}\", use other weights" in reasons(caught.value)
    assert not list((tmp_path / "out").glob("predictions*"))


def test_one_such_image_does_not_cost_the_others(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prompts.csv").write_text("file,position\na.png,thyroid\nb.png,breast\n")
    predict(tmp_path, weights, prompts=str(tmp_path / "prompts.csv"))
    found = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert [entry["prompts"]["position"] for entry in found] == ["thyroid", "breast"]
    assert not any(area["pixels"] for area in found[0]["areas"].values())
    assert SILENT in caplog.text


def test_an_organ_with_key_points_is_answered(tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = torch.load(weights, weights_only=True)
    rows = content["network_config"]["heads"]["points"]
    content["network_config"]["organ_points"] = {"head": rows[:-2], "thyroid": rows[-2:]}
    torch.save(content, tmp_path / "model.pt")
    predict(tmp_path, tmp_path / "model.pt", position="thyroid")
    assert "neither structures nor classes" not in caplog.text


def predict(folder: Path, weights: Path, **options: Any) -> None:
    (folder / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 70), np.uint8)).save(
            folder / f"images/{name}.png"
        )
    places = {"dataset_dir": str(folder / "images"), "output_dir": str(folder / "out"), "ckpt_path": str(weights)}
    config = str(ROOT / "configs/inference.yaml")
    run(config_file=config, logging_file=False, bundle_root=str(ROOT), num_workers=0, **places, **options)
