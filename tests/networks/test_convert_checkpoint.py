# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import pytest
import timm
import torch

from bundle.networks import build_uperconvnext
from bundle.networks.conversion import AUTHORS_NETWORK
from bundle.networks.weights import load_network

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convert_checkpoint.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("convert_checkpoint", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def authors_state(network, facebook_state) -> dict[str, torch.Tensor]:
    """A network's weights without prompts under the authors' names, with the parts that they save and never use."""
    state = {f"backbone.{n}": v for n, v in facebook_state(network.encoder).items()}
    state |= {f"seg_head.{n}": v for n, v in state.items()}
    table = {"ppm.fusion": "ppm.out", "fusion": "fuse", "block": "seg.0"}
    table |= {f"ppm.branches.{i}": f"ppm.cba{i + 1}" for i in range(4)}
    for i in range(3):
        table |= {f"laterals.{i}": f"fpn.fpn_in.fpn_layer{3 - i}", f"smooths.{i}": f"fpn.fpn_out.fpn_layer{3 - i}"}
    for name, value in network.decoder.state_dict().items():
        part = next(p for p in table if name.startswith(p + "."))
        state["seg_head." + name.replace(part, table[part], 1).replace(".norm.", ".bn.")] = value
    parts = {"seg.classifier": "seg_head.seg.1", "seg.refine": "seg_head.out"}
    parts |= {"cls_two.linear": "cls_head_2cls", "cls_four.linear": "cls_head_4cls"}
    for ours, theirs in parts.items():
        state |= {f"{theirs}.{n}": v for n, v in network.heads.get_submodule(ours).state_dict().items()}
    return state


def test_authors_checkpoint_becomes_a_network(main, facebook_state, tmp_path, capsys):
    torch.manual_seed(0)
    theirs = build_uperconvnext(**AUTHORS_NETWORK, conditioning="none").eval()
    torch.save({"model": authors_state(theirs, facebook_state)}, tmp_path / "authors.pth")
    assert main([str(tmp_path / "authors.pth"), str(tmp_path / "paper.pt")]) == 0
    out = capsys.readouterr().out
    for line in (
        "taken: 266",
        "seg_head.ppm  (",
        "ignored: 184",
        "seg_head.backbone  (",
        "backbone.head  (2)",
        "untouched: 0",
    ):
        assert line in out
    ours = build_uperconvnext(**AUTHORS_NETWORK, conditioning="none").eval()
    load_network(ours, tmp_path / "paper.pt")
    bgr = torch.rand(1, 3, 32, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in (ours.encoder.mean, ours.encoder.std))
    torch.testing.assert_close(ours((bgr.flip(1) - mean) / std), theirs(bgr), atol=1e-4, rtol=0)

    assert main([str(tmp_path / "authors.pth"), str(tmp_path / "bgr.pt"), "--input", "bgr"]) == 0
    load_network(ours, tmp_path / "bgr.pt")
    assert torch.equal(ours(bgr), theirs(bgr))


def test_timm_weights_become_an_encoder_start(main, make_network, tmp_path, capsys):
    theirs = timm.create_model("test_convnext", pretrained=False)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    start = tmp_path / "start.pt"
    assert main([str(tmp_path / "timm.pth"), str(start), "--encoder", "test_convnext"]) == 0
    out = capsys.readouterr().out
    assert "ignored: 2\n  head.fc  (2)" in out
    assert f"use it with --encoder_weights {start}" in out
    network = make_network(encoder_weights=str(start))
    assert torch.equal(network.encoder.backbone.stem_0.weight, theirs.stem[0].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pth", "new.pt"], "absent.pth, which is none"),
        (["timm.pth", "timm.pth", "--encoder", "test_convnext"], "timm.pth must be a new file"),
        (["timm.pth", "new.pt"], "need the encoder's timm name; add --encoder"),
        (["timm.pth", "new.pt", "--encoder", "resnet18"], "timm's ConvNeXt names"),
        (["timm.pth", "new.pt", "--encoder", "convnext_atto"], "does not fit encoder convnext_atto"),
        (["timm.pth", "new.pt", "--layout", "authors"], "must be in the layout authors, got timm; use --layout auto"),
        (
            ["timm.pth", "timm.pth/new.pt", "--encoder", "test_convnext"],
            "expected a free name or an unchanged file of an earlier run, got no folder",
        ),
    ],
)
def test_refusals_are_text_with_exit_status_1(main, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("test_convnext", pretrained=False).state_dict(), "timm.pth")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""
    assert not Path("new.pt").exists()


def test_help_and_wrong_usage(main, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--layout {auto,authors,facebook,timm}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["one", "two", "--layout", "keras"])
