# SPDX-License-Identifier: Apache-2.0
"""Organs in a tree: what is learned at which fork, and where it comes from."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from bundle.pretraining import OrganHierarchy, Pretraining, prepare_images
from bundle.pretraining.hierarchy import known_organs
from bundle.pretraining.images import drawn_by, training_images

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TREE: dict[str, Any] = {"ultrasound": {"chest": {"heart": {}, "lung": None}, "breast": {}}, "none": {}}


def encode(image: Tensor) -> tuple[list[Tensor], Tensor]:
    return [], image.mean((2, 3))


def test_probabilities_of_leaves_are_products_along_their_ways() -> None:
    objective = OrganHierarchy([3], TREE)
    assert list(objective.ways) == ["ultrasound", "chest", "heart", "lung", "breast", "none"]
    scores = torch.randn(6, generator=torch.Generator().manual_seed(0))
    # places: ultrasound 0, none 1; chest 2, breast 3; heart 4, lung 5
    p = {name: float(objective.log_probability(scores, name).exp()) for name in objective.ways}
    assert p["lung"] == pytest.approx(
        float(
            torch.sigmoid(scores[0] - scores[1])
            * torch.sigmoid(scores[2] - scores[3])
            * torch.sigmoid(scores[5] - scores[4])
        )
    )
    assert p["heart"] + p["lung"] == pytest.approx(p["chest"])
    assert p["chest"] + p["breast"] == pytest.approx(p["ultrasound"])
    assert p["ultrasound"] + p["none"] == pytest.approx(1.0)


def test_the_loss_is_the_mean_over_known_organs() -> None:
    objective = OrganHierarchy([3], TREE)
    torch.nn.init.zeros_(objective.scores.weight)
    torch.nn.init.zeros_(objective.scores.bias)
    image = torch.rand(4, 3, 8, 8)
    loss = objective(image, encode, ["lung", "breast", "", "spleen"])
    assert float(loss) == pytest.approx((3 * math.log(2) + 2 * math.log(2)) / 2)
    nothing = objective(image, encode, ["", "", "", ""])
    nothing.backward()
    assert float(nothing) == 0
    assert not objective.scores.weight.grad.any()


def test_an_encoder_learns_to_tell_organs() -> None:
    torch.manual_seed(0)
    encoder = torch.nn.Module()
    encoder.forward = encode  # type: ignore[method-assign]
    network = Pretraining(encoder, {"organs": OrganHierarchy([3], TREE)}, mean=[0.0] * 3, std=[1.0] * 3)
    image = torch.eye(3)[:, :, None, None].repeat(1, 1, 4, 4)
    batch = {"image": image, "organ": ["lung", "breast", "none"]}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.3)
    for _ in range(60):
        inputs, _, _, told = prepare_images(batch)
        loss = network(inputs, **told)["losses"]["organs"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


@pytest.mark.parametrize(
    "tree",
    [{"a": {}}, {"a": {"b": {}}}, {"a": {"b": {}, "c": {}}, "b": {}}, {}],
    ids=["leaf", "line", "twice", "empty"],
)
def test_a_tree_without_a_fork_or_with_a_name_twice_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="organ_tree must have a fork and each name once"):
        OrganHierarchy([3], tree)


def test_organs_that_no_image_shows_are_refused() -> None:
    assert known_organs([{"organ": ""}, {"organ": "lung"}], TREE) is TREE
    with pytest.raises(ValueError, match=r"got \['liver'\]; learn from a folder with datalist.json"):
        known_organs([{"organ": "liver"}, {}], TREE)


def test_each_organ_is_drawn_as_often_as_another_where_asked() -> None:
    items = [{"dataset": "a", "organ": "lung"}, {"dataset": "b", "organ": "lung"}, {"dataset": "c", "organ": ""}]
    assert [item["dataset"] for item in drawn_by(items, "dataset")] == ["a", "b", "c"]
    assert [item["dataset"] for item in drawn_by(items, "organ")] == ["lung", "lung", "c"]
    with pytest.raises(ValueError, match="balance must be dataset or organ, got 'patient'"):
        drawn_by(items, "patient")


def test_organs_come_from_the_manifest(tiny_data: Path) -> None:
    organs = {item["dataset"]: item["organ"] for item in training_images(tiny_data / "datalist.json")}
    assert organs == {"Breast": "breast", "Limb": "limb", "Lung": "lung"}


def test_the_overlay_adds_to_what_there_is(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    overlays = [str(CONFIGS / f"{name}.yaml") for name in ("pretrain", "pretrain_masked", "pretrain_hierarchy")]
    folder = pretrain("run", config_file=overlays, max_epochs=1, balance="organ")
    assert (folder / "encoder.pt").is_file()
    tree = ConfigParser.load_config_file(overlays[-1])["organ_tree"]
    organs = set(ConfigParser.load_config_file(str(CONFIGS / "train.yaml"))["organs"]) - {"indis"}
    assert organs | {"none"} <= set(OrganHierarchy([1], tree).ways)
