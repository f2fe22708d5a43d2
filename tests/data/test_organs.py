# SPDX-License-Identifier: Apache-2.0
"""Structures that no organ shows, in training and in inference, with the shipped configs."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import run
from PIL import Image

from bundle.data.datalist import load_split
from bundle.vocabulary import check_prompted, organ_table

ROOT = Path(__file__).resolve().parents[2]
STRUCTURES = ["background", "lesion", "head", "nerve", "vessel", "nodule"]
POSITIONS = ["breast", "thyroid", "head", "indis", "limb", "lung"]
ORGANS = {"breast": ["lesion"], "head": ["head"], "limb": ["nerve", "vessel"]}
LABEL_SETS = {"breast": ["normal", "benign", "malignant"], "lung": ["healthy", "pneumonia", "covid-19"]}


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


def load(datalist: Path, organs: Mapping[str, Any] | None, *, structures: Sequence[str] = STRUCTURES) -> None:
    tables = {"structures": structures, "label_sets": LABEL_SETS, "positions": POSITIONS}
    load_split(datalist, split="train", organ_structures=organs, **tables)


@pytest.mark.parametrize("run_id", ["training", "evaluating"])
def test_training_and_evaluation_name_the_organ_and_the_line_to_add(
    neck: Callable[..., Path], tiny_options: Callable[..., dict[str, Any]], tmp_path: Path,
    reasons: Callable[[BaseException], str], run_id: str,
) -> None:  # fmt: skip
    files = [str(ROOT / f"configs/{name}.yaml") for name in ("train", "evaluate")]
    options = tiny_options(tmp_path, dataset_dir=str(neck().parent), structures=STRUCTURES)
    with pytest.raises(RuntimeError) as caught:
        run(run_id, config_file=files if run_id == "evaluating" else files[0], logging_file=False, **options)
    assert (
        "dataset 'Limb': position 'thyroid' must have an entry in organ_structures, got none, but masks of ['nodule'], "
        "which would never be predicted; add 'thyroid: [nodule]' to organ_structures in the config"
    ) in reasons(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_line_makes_it_train(neck: Callable[..., Path], run_training: Callable[..., None], tmp_path: Path) -> None:
    options = {"dataset_dir": str(neck().parent), "structures": STRUCTURES, "max_epochs": 1}
    run_training(tmp_path, **options, **{"organ_structures#thyroid": ["nodule"]})
    assert (tmp_path / "models/model.pt").is_file()


@pytest.mark.parametrize("organs", [None, {}])
def test_without_a_table_every_organ_may_show_everything(neck: Callable[..., Path], organs: Any) -> None:
    load(neck(), organs)
    assert organ_table(organs, positions=POSITIONS, structures=STRUCTURES) == {
        place: [1, 2, 3, 4, 5] for place in POSITIONS
    }


def test_a_listed_organ_must_show_what_its_set_has_masks_of(neck: Callable[..., Path]) -> None:
    message = r"let one of its positions \['thyroid'\] show \['nodule'\].*write 'thyroid: \[head, nodule\]' there"
    with pytest.raises(ValueError, match=message):
        load(neck(), {**ORGANS, "thyroid": ["head"]})


@pytest.mark.parametrize("places", [("thyroid", "breast"), ("thyroid", "unknown"), ("unknown",), ("indis",)])
def test_a_set_of_several_places_needs_one_that_shows_it(neck: Callable[..., Path], places: Sequence[str]) -> None:
    load(neck(positions=places), {**ORGANS, "lung": [], "thyroid": ["nodule"]})


def test_a_shared_structure_needs_an_entry_of_each_organ(neck: Callable[..., Path]) -> None:
    """No structure is left over, so that only the data tells."""
    datalist = neck(structure="lesion")
    with pytest.raises(ValueError, match=r"position 'thyroid' must have .* masks of \['lesion'\].*: \[lesion\]'"):
        load(datalist, ORGANS, structures=STRUCTURES[:5])
    load(datalist, {**ORGANS, "thyroid": ["lesion"]}, structures=STRUCTURES[:5])


def test_organs_without_masks_need_no_entry_where_every_structure_has_its_organ(neck: Callable[..., Path]) -> None:
    datalist = neck(masks=False)
    load(datalist, {**ORGANS, "limb": ["nerve", "vessel", "nodule"]})
    with pytest.raises(ValueError, match=r"position 'lung' must have .* no organ shows \['nodule'\]; .*'lung: \[\]'"):
        load(datalist, {**ORGANS, "thyroid": []})


@pytest.mark.parametrize("organs", ["null", {"neck": ["lesion"]}, {"breast": ["tumor"]}, {"breast": "lesion"}])
def test_a_table_of_unknown_names_is_refused(organs: Any) -> None:
    with pytest.raises(ValueError, match=r"organ_structures must map positions .*got "):
        check_prompted(["breast"], organs, positions=POSITIONS, structures=STRUCTURES)


def predict(folder: Path, weights: Path, **options: Any) -> list[dict[str, Any]]:
    (folder / "images").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 70), np.uint8)).save(folder / "images/a.png")
    places = {"dataset_dir": str(folder / "images"), "output_dir": str(folder / "out"), "ckpt_path": str(weights)}
    small = {"encoder": "test_convnext", "decoder_channels": 16, "num_workers": 0, "bundle_root": str(ROOT)}
    run(config_file=str(ROOT / "configs/inference.yaml"), logging_file=False, **places, **small, **options)
    images: list[dict[str, Any]] = json.loads((folder / "out/predictions.json").read_text())["images"]
    return images


@pytest.mark.parametrize("by", ["option", "file"])
def test_inference_names_the_organ_and_the_line_to_add(
    tmp_path: Path, weights: Path, reasons: Callable[[BaseException], str], by: str
) -> None:
    (tmp_path / "prompts.csv").write_text("file,position\na.png,breast\n")
    asked = {"position": "breast"} if by == "option" else {"prompts": str(tmp_path / "prompts.csv")}
    with pytest.raises(RuntimeError) as caught:
        predict(tmp_path, weights, organ_structures={"head": ["head"], "limb": ["nerve", "vessel"]}, **asked)
    assert (
        "position 'breast' must have an entry in organ_structures, got none, while no organ shows ['lesion']; add "
        "'breast: [lesion]' to organ_structures in the config, or 'breast: []' if it shows no structure."
    ) in reasons(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("position", "organs"),
    [
        ("lung", ORGANS),  # every structure has its organ: the lung shows none
        ("lung", {"breast": ["lesion"], "lung": []}),
        ("unknown", {"breast": ["lesion"]}),
        ("breast", {}),
        ("breast", "$None"),
    ],
)
def test_organs_that_may_be_asked_for(tmp_path: Path, weights: Path, position: str, organs: Any) -> None:
    (found,) = predict(tmp_path, weights, position=position, organ_structures=organs)
    shown = {name for name, area in found["areas"].items() if area["pixels"]}
    assert not found["error"]
    assert not shown or position != "lung"


def test_an_organ_of_which_nothing_is_shown_is_named(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict(tmp_path, weights, position="thyroid")
    assert "['thyroid'] have no entry in organ_structures: no structure is shown for them." in caplog.text


def test_an_organ_with_classes_alone_needs_no_word(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict(tmp_path, weights, position="lung")
    assert "organ_structures" not in caplog.text
