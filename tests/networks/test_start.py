# SPDX-License-Identifier: Apache-2.0
"""Weights start a network of other structures, classes and positions: what both name is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bundle.networks import UPerConvNeXt
from bundle.networks.start import load_start
from bundle.networks.weights import load_network, save_checkpoint
from bundle.vocabulary import PAPER_POSITIONS

Make = Callable[..., UPerConvNeXt]


@pytest.fixture
def trained(make_network: Make) -> UPerConvNeXt:
    """A network with other weights than a new one."""
    network = make_network(awake=True)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture
def path(trained: UPerConvNeXt, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model.pt", model=trained.state_dict(), network_config=trained.network_config())
    return tmp_path / "model.pt"


def test_rows_follow_their_names(make_network: Make, trained: UPerConvNeXt, path: Path) -> None:
    network = make_network(structures=["background", "nodule", "head"])  # new, and one at its place
    before = {name: value.clone() for name, value in network.state_dict().items()}
    told = load_start(network, path)
    assert "structures: taken 'background' 'head', new 'nodule', left out 'lesion'" in told
    weight, own = network.decoder.classifier.weight, trained.decoder.classifier.weight
    assert torch.equal(weight[[0, 2]], own[[0, 2]])
    assert torch.equal(weight[1], before["decoder.classifier.weight"][1])
    refine, own = network.decoder.refine.weight, trained.decoder.refine.weight
    assert torch.equal(refine[2, 0], own[2, 0])
    assert torch.equal(refine[1], before["decoder.refine.weight"][1])
    assert torch.equal(refine[2, 1], before["decoder.refine.weight"][2, 1])
    for name, value in trained.state_dict().items():
        if "classifier" not in name and "refine" not in name:
            assert torch.equal(network.state_dict()[name], value), name


def test_more_structures_change_nothing_of_the_old_ones(make_network: Make, trained: UPerConvNeXt, path: Path) -> None:
    network = make_network(structures=["background", "lesion", "head", "cyst"]).eval()
    load_start(network, path)
    image, prompt = torch.randn(2, 3, 64, 96), torch.rand(2, 15)
    torch.testing.assert_close(network(image, prompt)[:, :3], trained.eval()(image, prompt))


def test_structures_in_another_order_give_the_same(make_network: Make, trained: UPerConvNeXt, path: Path) -> None:
    network = make_network(structures=["background", "head", "lesion"]).eval()
    load_start(network, path)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network(image)[:, [0, 2, 1]], trained.eval()(image))


def test_classes_and_positions_follow_their_names(make_network: Make, trained: UPerConvNeXt, path: Path) -> None:
    sets = {"breast": ["benign", "malignant"], "thyroid": ["normal", "nodule"]}
    network = make_network(label_sets=sets, positions=[*PAPER_POSITIONS, "limb"]).eval()
    told = load_start(network, path)
    assert "cls_thyroid: new 'normal' 'nodule'" in told
    assert torch.equal(network.heads["cls_breast"].weight, trained.heads["cls_breast"].weight[1:])
    own = trained.feature_prompt.linear.weight
    weight = network.feature_prompt.linear.weight
    assert torch.equal(weight[:, :8], own[:, :8])
    assert torch.equal(weight[:, 9:], own[:, 8:])
    assert not weight[:, 8].any()  # FiLM starts at zero: a new position changes nothing


def test_the_same_tables_are_the_same_weights(make_network: Make, path: Path) -> None:
    started, loaded = make_network(), make_network()
    load_start(started, path)
    load_network(loaded, path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(started.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_channels": 24}, "made with decoder width 16; this network has decoder width 24"),
        ({"encoder": "test_convnext2"}, "use --encoder test_convnext"),
        ({"norm": "batch"}, "made with norm group"),
    ],
)
def test_another_network_is_refused(make_network: Make, path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_start(make_network(**changes), path)


def test_damaged_weights_are_refused(make_network: Make, path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["model"]["decoder.classifier.bias"] = torch.ones(7)
    torch.save(content, path)
    network = make_network(structures=["background", "head"])
    torch.nn.init.ones_(network.decoder.classifier.bias)
    with pytest.raises(ValueError, match=r"decoder\.classifier\.bias must have shape \[3\], got \[7\]"):
        load_start(network, path)
    assert network.decoder.classifier.bias.tolist() == [1.0, 1.0]
    content["model"]["decoder.classifier.bias"] = torch.ones(3)
    del content["model"]["decoder.block.conv.weight"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"decoder\.block\.conv\.weight is absent in the file"):
        load_start(network, path)
