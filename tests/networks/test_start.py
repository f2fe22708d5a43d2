# SPDX-License-Identifier: Apache-2.0
"""Weights start a network of other structures, classes and positions: what both name is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from bundle.networks import ConvNeXtEncoder, Prompter, UPerConvNeXt, UPerNetDecoder
from bundle.networks.start import load_start
from bundle.networks.weights import load_network, save_checkpoint
from bundle.tasks import Masks, Organ, Task, build_heads, class_tasks
from bundle.vocabulary import PAPER_POSITIONS, Organs

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
    assert "seg: taken 'background' 'head', new 'nodule', left out 'lesion'" in told
    weight, own = network.heads["seg"].classifier.weight, trained.heads["seg"].classifier.weight
    assert torch.equal(weight[[0, 2]], own[[0, 2]])
    assert torch.equal(weight[1], before["heads.seg.classifier.weight"][1])
    refine, own = network.heads["seg"].refine.weight, trained.heads["seg"].refine.weight
    assert torch.equal(refine[2, 0], own[2, 0])
    assert torch.equal(refine[1], before["heads.seg.refine.weight"][1])
    assert torch.equal(refine[2, 1], before["heads.seg.refine.weight"][2, 1])
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
    assert torch.equal(network.heads["cls_breast"].linear.weight, trained.heads["cls_breast"].linear.weight[1:])
    own = trained.prompter.feature_prompt.linear.weight
    weight = network.prompter.feature_prompt.linear.weight
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
    content["model"]["heads.seg.classifier.bias"] = torch.ones(7)
    torch.save(content, path)
    network = make_network(structures=["background", "head"])
    torch.nn.init.ones_(network.heads["seg"].classifier.bias)
    with pytest.raises(ValueError, match=r"heads\.seg\.classifier\.bias must have shape \[3\], got \[7\]"):
        load_start(network, path)
    assert network.heads["seg"].classifier.bias.tolist() == [1.0, 1.0]
    content["model"]["heads.seg.classifier.bias"] = torch.ones(3)
    del content["model"]["decoder.block.conv.weight"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"decoder\.block\.conv\.weight is absent in the file"):
        load_start(network, path)


def test_a_new_tasks_head_starts_at_random_and_the_rest_from_weights(tmp_path: Path) -> None:
    """More structures and a task that the checkpoint does not have, as a config declares them."""
    organs = {"breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]}, "indis": {}}
    former, path = declared([Masks(Organs(organs)), *class_tasks(Organs(organs))]), tmp_path / "model.pt"
    save_checkpoint(path, model=former.state_dict(), network_config=former.network_config())
    grown = Organs({**organs, "thyroid": {"structures": ["nodule"]}})
    network = declared([Masks(grown), *class_tasks(grown), Organ(grown)])
    before = network.heads["organ"].linear.weight.clone()
    told = load_start(network, path)
    assert "seg: taken 'background' 'lesion', new 'nodule'" in told
    assert "organ: new 'breast' 'thyroid' 'none'" in told
    assert torch.equal(network.heads["organ"].linear.weight, before)
    image = torch.randn(2, 3, 64, 96)
    found, expected = network.eval().predict(image), former.eval().predict(image)
    torch.testing.assert_close(found["seg"][:, :2], expected["seg"])
    torch.testing.assert_close(found["cls_breast"], expected["cls_breast"])


def declared(tasks: Sequence[Task]) -> UPerConvNeXt:
    """A small network of these tasks, with other weights each time."""
    encoder = ConvNeXtEncoder("test_convnext")
    decoder = UPerNetDecoder(in_channels=encoder.channels, channels=16, norm="group")
    positions = tasks[0].organs.positions  # type: ignore[attr-defined]
    prompter = Prompter(positions, channels=encoder.channels, conditioning="film")
    return UPerConvNeXt(encoder, decoder, prompter, build_heads(tasks, encoder=encoder, decoder=decoder))


def test_the_gate_of_other_weights_is_named_and_left_out(make_network: Make, trained: UPerConvNeXt, path: Path) -> None:
    assert "gate:" not in load_start(make_network(), path)
    config = {**trained.network_config(), "gate": {"lesion": 0.65}}
    save_checkpoint(path, model=trained.state_dict(), network_config=config)
    assert "gate: left out 'lesion', as it fits those weights alone; scripts/gate.py" in load_start(
        make_network(), path
    )
