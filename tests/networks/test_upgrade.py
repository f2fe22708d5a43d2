# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of version 0.5.2 and older load under their former names and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.networks import UPerConvNeXt
from bundle.networks.start import load_start
from bundle.networks.upgrade import organs_of, renamed
from bundle.networks.weights import load_network
from bundle.vocabulary import Organs

FORMER = {
    "prompter.level_prompts.2.linear.weight": "level_prompts.2.linear.weight",
    "prompter.feature_prompt.linear.bias": "feature_prompt.linear.bias",
    "prompter.feature_prompt.gate": "feature_prompt.gate",
    "heads.seg.classifier.weight": "decoder.classifier.weight",
    "heads.seg.refine.bias": "decoder.refine.bias",
    "heads.cls_breast.linear.weight": "heads.cls_breast.weight",
    "encoder.backbone.stem_0.weight": "encoder.backbone.stem_0.weight",
    "decoder.fusion.conv.weight": "decoder.fusion.conv.weight",
}


def former(name: str) -> str:
    name = name.removeprefix("prompter.").replace("heads.seg.", "decoder.")
    return name.replace(".linear.", ".") if name.startswith("heads.") else name


@pytest.mark.parametrize(("today", "name"), FORMER.items())
def test_names_of_weights(today: str, name: str) -> None:
    assert former(today) == name
    assert list(renamed({name: 1})) == [today]
    assert list(renamed({today: 1})) == [today]


@pytest.fixture
def trained(make_network: Callable[..., UPerConvNeXt]) -> UPerConvNeXt:
    network = make_network(awake=True).eval()
    torch.nn.init.normal_(network.heads["seg"].refine.weight)
    return network


@pytest.fixture
def path(trained: UPerConvNeXt, tmp_path: Path) -> Path:
    """What version 0.5.2 would have written of that network."""
    config = {key: value for key, value in trained.network_config().items() if key not in ("heads", "parts")}
    state = {former(name): value for name, value in trained.state_dict().items()}
    assert {"level_prompts.0.linear.weight", "decoder.refine.bias", "heads.cls_lung.bias"} <= set(state)
    torch.save({"model": state, "network_config": config | {"version": "0.5.2"}}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("way", ["load_network", "load_start", "load_state_dict"])
def test_a_former_checkpoint_gives_the_same_logits(
    make_network: Callable[..., UPerConvNeXt], trained: UPerConvNeXt, path: Path, way: str
) -> None:
    network = make_network().eval()
    if way == "load_network":
        config = load_network(network, path)
        assert config == {**network.network_config(), "version": "0.5.2"}
    elif way == "load_start":
        assert "new" not in load_start(network, path)
    else:  # as MONAI's commands do
        network.load_state_dict(torch.load(path, weights_only=True)["model"])
    image, prompt = torch.randn(2, 3, 64, 96), torch.rand(2, 15)
    expected = trained.predict(image, prompt)
    for name, logits in network.predict(image, prompt).items():
        assert torch.equal(logits, expected[name]), name


TABLES: dict[str, Any] = {
    "positions": ["breast", "head", "indis", "limb", "lung"],
    "structures": ["background", "lesion", "head", "nerve", "vessel"],
    "label_sets": {"breast": ["normal", "benign", "malignant"], "lung": ["healthy", "ill"]},
}


def shown(table: dict[str, Any]) -> dict[str, list[str]]:
    return {organ: entry["structures"] for organ, entry in table.items()}


def test_organs_that_a_file_tells_are_taken_as_they_are() -> None:
    organs = {"breast": {"structures": ["lesion"]}, "indis": None}
    assert organs_of({**TABLES, "organs": organs}, path="model.pt") == organs


def test_of_a_former_checkpoint_the_organs_are_those_of_its_time() -> None:
    table = organs_of(TABLES, path="model.pt")
    expected = {"breast": ["lesion"], "head": ["head"], "indis": [], "limb": ["nerve", "vessel"], "lung": []}
    assert shown(table) == expected
    organs = Organs(table)
    assert (organs.structures, organs.label_sets) == (TABLES["structures"], TABLES["label_sets"])
    assert organs.positions == TABLES["positions"]
    assert [organs.label_set(name) for name in organs.positions] == ["breast", "", "", "", "lung"]


def test_of_a_former_export_the_organs_are_those_that_it_tells() -> None:
    tells = {"lung": ["lesion"], "limb": ["head", "nerve"], "head": ["vessel"]}
    config = {**TABLES, "positions": ["lung", "limb", "head", "indis"], "organ_structures": tells}
    assert shown(organs_of(config, path="m.xml")) == {**tells, "indis": []}


def test_what_no_organ_is_known_to_show_every_other_organ_shows() -> None:
    config = {**TABLES, "positions": ["breast", "thyroid", "indis"], "structures": ["background", "lesion", "nodule"]}
    assert shown(organs_of(config, path="model.pt")) == {"breast": ["lesion"], "thyroid": ["nodule"], "indis": []}


def test_classes_of_no_organs_name_are_those_of_an_organ_without_any() -> None:
    config = {**TABLES, "label_sets": {"breast": ["a", "b"], "chest": ["c", "d"]}}
    organs = Organs(organs_of(config, path="model.pt"))
    assert organs.label_sets == {"breast": ["a", "b"], "chest": ["c", "d"]}
    assert organs.label_set("head") == "chest"


def test_structures_that_no_table_gives_name_the_file_and_the_option() -> None:
    config = {**TABLES, "structures": ["background", "nerve", "lesion"]}
    with pytest.raises(
        ValueError, match=r"model\.pt does not tell which organ shows .*\['nerve', 'lesion'\]; say so with --org"
    ):
        organs_of(config, path="model.pt")
