# SPDX-License-Identifier: Apache-2.0
"""What weights say of themselves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from bundle.engines.held import describe, taught_heads
from bundle.export import load_source
from bundle.networks.weights import save_checkpoint
from bundle.tasks import Masks, Organ, Points, Presence, class_tasks
from bundle.vocabulary import Organs

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "configs/train.yaml"
CONFIG = ConfigParser.load_config_file(str(TRAIN))
ORGANS = {"breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]}, "indis": {}}


def test_without_a_file_it_is_what_the_config_would_train(tmp_path: Path) -> None:
    told = describe(tmp_path / "none.pt", otherwise=TRAIN)
    assert told.pop("heads") is None
    assert told == {key: CONFIG[key] for key in told}
    assert told["organs"]["limb"] == {"structures": ["nerve", "vessel"]}
    assert told["image_size"] == 224


def test_a_checkpoint_tells_its_tables_and_shape(tmp_path: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(str(TRAIN)))
    parser.update({"encoder": "test_convnext", "decoder_channels": 16, "image_size": 64, "guidance_channels": 0})
    parser.update({"organs": ORGANS, "tasks#points": None})
    network, described = parser.get_parsed_content("network_def"), parser.get_parsed_content("described")
    path = tmp_path / "model.pt"
    save_checkpoint(path, model=network.state_dict(), network_config={**network.network_config(), **described})
    told = describe(path, otherwise=TRAIN)
    assert told["organs"] == ORGANS
    assert list(told["heads"]) == ["seg", "cls_breast", "organ", "presence"]
    shape = {"encoder": "test_convnext", "decoder_channels": 16, "guidance_channels": 0, "image_size": 64}
    assert {key: told[key] for key in shape} == shape
    assert told["image_mean"] == CONFIG["image_mean"]


def test_a_checkpoint_tells_the_points_of_its_training(tmp_path: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(str(TRAIN)))
    parser.update({"encoder": "test_convnext", "decoder_channels": 16})
    parser["tasks#points#points"] = {"breast": ["tip", "tail"]}  # the pairs of the config are of other points
    network, own = parser.get_parsed_content("network_def"), parser.get_parsed_content("described")
    path = tmp_path / "model.pt"
    save_checkpoint(path, model=network.state_dict(), network_config={**network.network_config(), **own})
    told = describe(path, otherwise=TRAIN)
    assert (told["organ_points"], told["point_pairs"]) == ({"breast": ["tip", "tail"]}, [])
    assert load_source(path, config_files=[TRAIN]).network.heads["points"].rows == ["tip", "tail"]
    exported = describe(path, otherwise=TRAIN, exported=Exported(organ_points={"breast": ["a", "b"]}))
    assert exported["organ_points"] == {"breast": ["a", "b"]}


def test_a_file_is_read_again_once_it_has_changed(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(weights.read_bytes())
    described = {"organs": ORGANS}
    first = describe(path, otherwise=TRAIN)
    first["organs"].clear()  # what was told is the caller's
    assert "limb" in describe(path, otherwise=TRAIN)["organs"]
    content = torch.load(path, weights_only=True)
    torch.save({**content, "network_config": {**content["network_config"], **described}}, path)
    assert describe(path, otherwise=TRAIN)["organs"] == ORGANS


def test_the_shipped_weights_tell_which_organ_shows_what() -> None:
    told = describe(ROOT / "models/model.pt", otherwise=TRAIN)
    organs, own = Organs(told["organs"]), Organs(CONFIG["organs"])
    assert organs.table == own.table
    assert {"seg", "cls_breast", "cls_lung", "cls_gallbladder"} <= set(told["heads"])
    assert {key: told[key] for key in ("encoder", "image_size")} == {"encoder": "convnext_atto", "image_size": 224}


class Exported(nn.Module):
    """A model with what its file says of itself."""

    path = Path("model_float32.onnx")

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        network = {"encoder": "test_convnext", "decoder_channels": 16, "heads": {"seg": ["background", "lesion"]}}
        tables = {"structures": ["background", "lesion"], "label_sets": {}, "positions": ["breast", "indis"]}
        self.metadata = {"network": network, "outputs": ["seg"], "image_size": 96, **tables, **changes}


def test_an_exported_model_tells_in_place_of_the_checkpoint(weights: Path) -> None:
    organs = {"breast": {"structures": ["lesion"]}, "indis": {}}
    told = describe(weights, otherwise=TRAIN, exported=Exported(organs=organs))
    assert told["organs"] == organs
    assert told["heads"] == {"seg": ["background", "lesion"]}
    assert (told["encoder"], told["decoder_channels"], told["image_size"]) == ("test_convnext", 16, 96)
    assert told["norm"] == CONFIG["norm"]  # what the file does not tell


def test_an_exported_model_of_version_0_6_tells_what_organs_show(tmp_path: Path) -> None:
    former = Exported(organ_structures={"breast": ["lesion"]})
    told = describe(tmp_path / "none.pt", otherwise=TRAIN, exported=former)
    assert told["organs"] == {"breast": {"structures": ["lesion"]}, "indis": {"structures": []}}


def test_tables_that_do_not_fit_name_the_file(tmp_path: Path) -> None:
    strange = Exported(structures=["background", "b", "a"], organ_structures={"breast": ["a"], "indis": ["b"]})
    with pytest.raises(ValueError, match=r"model_float32\.onnx does not tell which organ shows which .* \['b', 'a'\]"):
        describe(tmp_path / "none.pt", otherwise=TRAIN, exported=strange)


@pytest.mark.parametrize("gate", [{"lesion": 0.5, "$x": 0.5}, {"background": 0.5}], ids=["unknown", "background"])
def test_a_gate_of_other_structures_names_the_file(tmp_path: Path, gate: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^model_float32\.onnx: gate must name some of its 1 structures, got 1 other"):
        describe(tmp_path / "none.pt", otherwise=TRAIN, exported=Exported(organ_structures={}, gate=gate))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"organs": {"none": {}, "indis": {}}}, "organs must not name one 'none'"),
        ({"organs": {"breast": {"structures": ["lesion"]}, "indis": {}}, "organ_points": {"foot": ["toe"]}}, "foot"),
    ],
)
def test_organs_that_cannot_be_name_the_file(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"model_float32\.onnx: organs .*got others: .*{message}"):
        describe(tmp_path / "none.pt", otherwise=TRAIN, exported=Exported(**facts))


TABLE = Organs(CONFIG["organs"])
TASKS = [
    *class_tasks(TABLE),
    Organ(TABLE),
    Presence(TABLE),
    Points(TABLE, points={"head": ["left", "right"], "indis": ["mark"]}),
]
NOTHING = {"position": "indis", "organ": None, "classes": {}, "labeled": [False] * 5, "points": None}


def test_a_training_teaches_what_its_items_are_labeled_for(caplog: pytest.LogCaptureFixture) -> None:
    items = [NOTHING, {**NOTHING, "classes": {"lung": 1}}, {**NOTHING, "points": {"right": None}}]
    with caplog.at_level("INFO"):
        assert taught_heads(TASKS, items) == {"cls_lung": [], "points": ["right"]}
    assert "do not rely" not in caplog.text
    assert "no training item is labeled for cls_breast, cls_gallbladder, organ, presence:" in caplog.text


@pytest.mark.parametrize("told", [{"position": "head"}, {"organ": "none"}])
def test_a_position_or_none_teaches_the_organ(told: dict[str, str]) -> None:
    other = {**NOTHING, "position": "lung"}
    assert taught_heads(TASKS, [NOTHING, other, {**NOTHING, **told}]) == {
        "organ": [name for name in Organ(TABLE).names if name in ("lung", *told.values())]
    }


def test_one_organ_alone_is_no_answer() -> None:
    items = [{**NOTHING, "position": "head"}, {**NOTHING, "classes": {"lung": 1}}]
    assert taught_heads(TASKS, items) == {"cls_lung": []}


def test_rows_that_nothing_teaches_are_cut_or_named(caplog: pytest.LogCaptureFixture) -> None:
    items = [{**NOTHING, "labeled": [True, True, False, False, True]}, {**NOTHING, "classes": {"breast": 0}}]
    masks, presence = Masks(TABLE), Presence(TABLE, absent_classes={"breast": {"normal": ["head"]}})
    taught = taught_heads([masks, presence], items)
    assert taught == {"seg": [], "presence": ["lesion", "head", "vessel"]}
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("no training item is labeled for head, nerve of seg: do not rely on")
    assert masks.untaught(items, ["background", "head", "nerve"]) == []


def test_what_the_start_knows_is_kept(tmp_path: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(str(TRAIN)))
    parser.update({"encoder": "test_convnext", "decoder_channels": 16, "tasks#points#points": {"head": ["left"]}})
    parser.update({"tasks#points#pairs": [], "tasks#presence": None})
    network = parser.get_parsed_content("network_def")
    save_checkpoint(tmp_path / "start.pt", model=network.state_dict(), network_config=network.network_config())
    taught = taught_heads(TASKS, [{**NOTHING, "points": {"mark": [1, 1]}}], start=tmp_path / "start.pt")
    assert taught is not None
    assert taught.pop("organ") == Organ(TABLE).names
    assert taught == {"cls_breast": [], "cls_lung": [], "cls_gallbladder": [], "points": ["left", "mark"]}


def test_saved_labels_keep_the_outputs_of_the_served_weights(weights: Path, tmp_path: Path) -> None:
    assert taught_heads(TASKS, None, served=tmp_path / "none.pt") is None
    taught = taught_heads(TASKS, None, served=weights)
    assert taught is not None
    assert taught["points"] == ["long_axis_1", "long_axis_2", "short_axis_1", "short_axis_2", "caliper_1", "caliper_2"]


def test_items_without_any_label_are_refused() -> None:
    with pytest.raises(ValueError, match=r"training items must be labeled for one of cls_breast.* got 1 items without"):
        taught_heads(TASKS, [NOTHING])


def test_another_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"model\.pt must be a checkpoint"):
        describe(tmp_path / "model.pt", otherwise=TRAIN)
