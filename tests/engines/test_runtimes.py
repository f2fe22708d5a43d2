# SPDX-License-Identifier: Apache-2.0
"""Exported files are taken for what they are: made by us, for this config, for this runtime."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bundle.engines.answers import named_answers
from bundle.engines.runtimes import (
    ExportedNetwork,
    exported_path,
    open_model,
    require_package,
    runtime_network,
    weights_file,
)
from bundle.networks import UPerConvNeXt, build_uperconvnext

CONFIG: dict[str, Any] = {
    "structures": ["background", "lesion"],
    "label_sets": {"breast": ["benign", "malignant"]},
    "positions": ["breast", "indis"],
    "image_size": 64,
}
METADATA = {
    **CONFIG,
    "outputs": ["seg", "cls_breast"],
    "image_channels": ["red", "green", "blue", "wanted", "unwanted"],
    "prompt": {"neutral": [0.0, 1.0]},
}


class Sums(nn.Module):
    """Segmentation logits that show the channels and the prompt which arrived."""

    def forward(self, image: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([image[:, :3].sum(1), image[:, 3:].sum(1)], 1), prompt


def network(**changes: Any) -> UPerConvNeXt:
    tables = {name: CONFIG[name] for name in ("structures", "label_sets", "positions")}
    return build_uperconvnext(encoder="test_convnext", decoder_channels=16, **{**tables, **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model_float32.ts"
    traced = torch.jit.trace(Sums(), (torch.rand(2, 5, 32, 64), torch.rand(2, 2)))
    torch.jit.save(traced, path, _extra_files={"metadata.json": json.dumps(METADATA)})
    return path


def test_guidance_may_be_left_out_and_a_prompt_too(model: Path) -> None:
    exported = ExportedNetwork(model)
    image = torch.ones(3, 5, 32, 32)
    assert exported(image)[0, :, 0, 0].tolist() == [3, 2]
    found = exported.predict(image[:, :3])
    assert found["seg"][2, :, 5, 5].tolist() == [3, 0]
    assert found["cls_breast"].tolist() == [[0, 1]] * 3
    assert exported.predict(image, torch.tensor([[1.0, 0.0]]))["cls_breast"].tolist() == [[1, 0]] * 3


def test_images_that_do_not_fit_are_refused(model: Path) -> None:
    exported = ExportedNetwork(model)
    with pytest.raises(ValueError, match=r"up to 5, height, width.*multiples of 32, got \[1, 3, 30, 32\]"):
        exported.predict(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match=r"got \[1, 6, 32, 32\]"):
        exported.predict(torch.zeros(1, 6, 32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outputs": ["seg"]},
            r"outputs and widths \{'seg': None\}, got 2 outputs of widths \[2, 2\]; export it again",
        ),
        ({"outputs": ["seg", "cls_breast", "organ"]}, r"got 2 outputs of widths"),
        ({"network": {"heads": {"cls_breast": ["a", "b", "c"]}}}, r"\{'seg': None, 'cls_breast': 3\}, got 2 outputs"),
    ],
)
def test_answers_that_the_metadata_do_not_tell_are_refused(model: Path, changes: dict[str, Any], message: str) -> None:
    script = torch.jit.load(model)  # type: ignore[no-untyped-call]
    other = model.with_name("other.ts")
    torch.jit.save(script, other, _extra_files={"metadata.json": json.dumps({**METADATA, **changes})})
    exported = ExportedNetwork(other)
    with pytest.raises(ValueError, match=rf"other\.ts must take and give what its metadata tells, .*{message}"):
        exported.predict(torch.zeros(1, exported.image_channels, 32, 32))


def test_what_a_runtime_says_against_an_input_names_the_file() -> None:
    def run(image: Tensor, prompt: Tensor) -> list[Tensor]:
        raise RuntimeError("index 1 Got: 3\nExpected: 5")

    with pytest.raises(ValueError, match=r"^m\.onnx must .* inputs \[1, 3, 32, 32\] and \[1, 2\], got index 1 Got: 3"):
        named_answers(run, torch.zeros(1, 3, 32, 32), torch.zeros(1, 2), metadata=METADATA, path=Path("m.onnx"))


def test_torch_is_the_network_itself() -> None:
    network = nn.Identity()
    assert open_model("torch", model_path="/nowhere") is None
    assert runtime_network(network, exported=None, image_size=64) is network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structures": ["background", "head"]}, r"structures \['background', 'lesion'\], got a config with .*'head'"),
        ({"label_sets": {"lung": ["a", "b"]}}, r"was exported with label_sets .*'breast'.*got a config with .*'lung'"),
        ({"positions": ["indis"]}, "was exported with positions"),
        ({"image_size": 96}, "was exported with image_size 64, got a config with 96; export it again"),
    ],
)
def test_a_model_of_another_config_is_refused(model: Path, changes: dict[str, Any], message: str) -> None:
    exported, size = open_model("torchscript", model_path=model), changes.pop("image_size", 64)
    with pytest.raises(ValueError, match=message):
        runtime_network(network(**changes), exported=exported, image_size=size)
    assert runtime_network(network(), exported=exported, image_size=64) is exported


def test_a_model_that_was_exported_with_some_of_its_heads_runs(model: Path) -> None:
    """The tasks of a config are those that its outputs answer."""
    exported = open_model("torchscript", model_path=model)
    assert runtime_network(network(label_sets={}), exported=exported, image_size=64) is exported


def test_names_of_runtimes_and_files_must_fit(model: Path) -> None:
    with pytest.raises(ValueError, match="runtime must be one of torch, torchscript, onnx, openvino, got 'tensorrt'"):
        open_model("tensorrt", model_path=model)
    with pytest.raises(ValueError, match=r"model_path must end with \.onnx for the runtime onnx, got .*\.ts"):
        open_model("onnx", model_path=model)
    with pytest.raises(ValueError, match=r"must end with \.ts, \.onnx, \.xml, got model\.pt"):
        ExportedNetwork("model.pt")
    assert exported_path("exports", "openvino") == str(Path("exports/model_float32.xml"))
    assert weights_file("openvino", ckpt_path="a.pt", model_path="m.xml") == "m.bin"
    assert weights_file("onnx", ckpt_path="a.pt", model_path="m.onnx") == "m.onnx"
    assert weights_file("torch", ckpt_path="a.pt", model_path="m.onnx") == "a.pt"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got .*model_int8\.onnx, which is none; make it with"):
        ExportedNetwork(tmp_path / "model_int8.onnx")
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(FileNotFoundError, match=r"got .*model\.bin, which is none"):
        ExportedNetwork(tmp_path / "model.xml")


@pytest.mark.parametrize("suffix", [".ts", ".onnx", ".xml"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    for name in (f"model{suffix}", "model.bin"):
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ValueError, match=rf"model\{suffix} must be a model of scripts/export.py, got a damaged"):
        ExportedNetwork(tmp_path / f"model{suffix}")


def test_models_of_others_are_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.rand(2)), tmp_path / "other.ts")
    import openvino as ov

    value = ov.opset13.parameter([1], ov.Type.f32)
    ov.save_model(ov.Model([ov.opset13.relu(value)], [value]), tmp_path / "other.xml")
    for name in ("other.ts", "other.xml"):
        with pytest.raises(ValueError, match=rf"{name} must hold this project's metadata"):
            ExportedNetwork(tmp_path / name)


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r'package openvino .* pip install -e "\.\[deploy\]"'):
        require_package("openvino")
