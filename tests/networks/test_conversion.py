# SPDX-License-Identifier: Apache-2.0
import pytest
import timm
import torch

from bundle.networks.conversion import convert_encoder, detect_layout, state_dict
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.weights import load_encoder


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "test_convnext"])
def test_facebook_weights_become_an_encoder_start(facebook_state, name, tmp_path):
    source, target = ConvNeXtEncoder(name), ConvNeXtEncoder(name)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    torch.save({"model": facebook_state(source)}, tmp_path / "facebook.pth")
    conversion = load_encoder(target, name=name, path=tmp_path / "facebook.pth")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
    assert len(conversion.taken) == len(source.state_dict())
    assert conversion.ignored == ["head.weight", "head.bias"]
    assert conversion.untouched == []


def test_timm_weights_without_their_last_norm_leave_ours_untouched():
    state = timm.create_model("test_convnext", pretrained=False).state_dict()
    state = {f"module.{n}": v for n, v in state.items() if not n.startswith("head.norm")}
    state = state_dict({"state_dict": state}, "timm.pth")
    conversion = convert_encoder(state, ConvNeXtEncoder("test_convnext"), name="test_convnext", path="timm.pth")
    assert conversion.untouched == ["norm.weight", "norm.bias"]
    assert conversion.ignored == ["head.fc.weight", "head.fc.bias"]


@pytest.mark.parametrize(
    ("made_with", "used_for"), [("convnext_atto", "convnext_femto"), ("test_convnext", "convnext_atto")]
)
@pytest.mark.parametrize("layout", ["facebook", "timm"])
def test_weights_of_another_width_are_refused(facebook_state, layout, made_with, used_for):
    theirs = timm.create_model(made_with, pretrained=False).state_dict()
    state = facebook_state(ConvNeXtEncoder(made_with)) if layout == "facebook" else theirs
    with pytest.raises(
        ValueError, match=f"w.pth does not fit encoder {used_for}; choose the --encoder .*stem_0.weight is"
    ):
        convert_encoder(state, ConvNeXtEncoder(used_for), name=used_for, path="w.pth")


@pytest.mark.parametrize("change", ["shallower", "deeper"])
def test_weights_of_another_depth_are_refused(facebook_state, change):
    state = facebook_state(ConvNeXtEncoder("test_convnext"))
    if change == "deeper":
        state |= {n.replace("stages.2.0.", "stages.2.9."): v for n, v in state.items() if "stages.2.0." in n}
    else:
        state = {n: v for n, v in state.items() if "stages.3.0." not in n}
    with pytest.raises(ValueError, match=r"tensors differ: backbone.stages_(2.blocks.9|3.blocks.0).* absent"):
        convert_encoder(state, ConvNeXtEncoder("test_convnext"), name="test_convnext", path="w.pth")


def test_other_layouts_are_refused():
    with pytest.raises(ValueError, match=r"w.pth must be in the layout .* got names such as \['fc.weight'\]"):
        detect_layout({"fc.weight": torch.ones(1)}, "w.pth")
    with pytest.raises(ValueError, match=r"w.pth must hold a state dict"):
        state_dict({"model": {"epoch": 3}}, "w.pth")
