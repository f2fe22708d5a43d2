# SPDX-License-Identifier: Apache-2.0
"""The files compute what the network computes, say how to use them, and are not written otherwise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from PIL import Image

from bundle.engines.held import describe
from bundle.engines.runtimes import SUFFIXES, ExportedNetwork
from bundle.export import Export, Exporter, Source, load_source, planned, write_summary
from bundle.export.quantize import CalibrationImages, operations
from bundle.export.verify import Refused, Scores, WithEager, check_scores, scores
from bundle.files import LEDGER, sha256

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "configs/train.yaml"
FORMATS = sorted(SUFFIXES)


@pytest.mark.parametrize("kind", FORMATS)
def test_float32_models_equal_eager_at_other_sizes_and_batches(
    exports: dict[str, Any], source: Source, kind: str
) -> None:
    assert not exports[kind].error
    exported = ExportedNetwork(exports["folder"] / f"model_float32{SUFFIXES[kind]}", threads=1)
    torch.manual_seed(1)
    for batch, channels, height, width in [(1, 5, 32, 32), (4, 5, 96, 64), (1, 3, 160, 224), (2, 5, 128, 128)]:
        image, prompt = torch.randn(batch, channels, height, width), torch.rand(batch, 18)
        with torch.no_grad():
            expected = source.network.predict(image, prompt)
        found = exported.predict(image, prompt)
        assert list(found) == list(expected)
        for name, logits in expected.items():
            torch.testing.assert_close(found[name], logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(exported(image, prompt), found["seg"])
    neutral = source.network.prompter.neutral
    torch.testing.assert_close(exported.predict(image)["seg"], exported.predict(image, neutral.expand(2, -1))["seg"])


@pytest.mark.parametrize(
    ("kind", "heads", "name"),
    [
        ("torchscript", ["breast"], "model_float32_breast.ts"),
        ("onnx", ["gallbladder", "seg"], "model_float32_seg_gallbladder.onnx"),
        ("openvino", ["seg"], "model_float32_seg.xml"),
    ],
)
def test_nothing_is_computed_for_heads_that_were_not_asked_for(
    exports: dict[str, Any], source: Source, tmp_path: Path, kind: str, heads: list[str], name: str
) -> None:
    exporter = Exporter(source, output_dir=tmp_path, heads=heads, threads=1)
    found = exporter.export(kind, "float32")
    assert not found.error
    assert name in found.files
    exported, image = ExportedNetwork(tmp_path / name, threads=1), torch.randn(2, 5, 64, 96)
    outputs = ["seg"] * ("seg" in heads) + [f"cls_{head}" for head in heads if head != "seg"]
    assert exported.metadata["outputs"] == outputs
    logits = exported.predict(image, prompt := torch.rand(2, 18))
    assert list(logits) == outputs
    with torch.no_grad():
        expected = source.network.predict(image, prompt)
    for output in outputs:
        torch.testing.assert_close(logits[output], expected[output], atol=1e-4, rtol=0)
    if "seg" not in heads:  # the decoder's weights are not in the file
        assert found.bytes < 0.9 * exports[kind].bytes
    merged = WithEager(exported, source.network).predict(image, prompt)
    assert list(merged) == list(expected)
    assert describe(tmp_path / "none.pt", otherwise=TRAIN, exported=exported)["heads"].keys() == set(outputs)


@pytest.mark.parametrize("kind", FORMATS)
def test_metadata_hold_what_an_engineer_needs(
    exports: dict[str, Any], source: Source, checkpoint: Path, kind: str
) -> None:
    metadata = ExportedNetwork(exports["folder"] / f"model_float32{SUFFIXES[kind]}", threads=1).metadata
    for name in ("structures", "positions", "organs", "image_size", "image_mean", "image_std", "click_radius"):
        assert metadata[name] == source.value(name), name
    assert metadata["weights_sha256"] == sha256(checkpoint)
    assert metadata["label_sets"] == source.value("vocabulary").label_sets
    assert metadata["outputs"] == ["seg", "cls_breast", "cls_lung", "cls_gallbladder", "organ", "presence", "points"]
    assert metadata["image_channels"] == ["red", "green", "blue", "wanted", "unwanted"]
    assert list(metadata["prompt"]["order"]) == ["position", "task", "type", "nature"]
    assert metadata["prompt"]["neutral"] == source.network.prompter.neutral[0].tolist()
    assert (metadata["precision"], metadata["precision_hint"]) == ("float32", "f32")
    assert "longest side" in metadata["letterbox"]
    reading = metadata["output_values"]
    assert list(reading) == metadata["outputs"]
    assert all("softmax over axis 1" in reading[name] for name in ("seg", "cls_breast", "organ"))
    assert "sigmoid" in reading["presence"]
    assert "softmax over the places" in reading["points"]
    assert metadata["network"] == source.network.network_config()


def test_letterbox_is_the_one_that_the_metadata_tell(source: Source, tmp_path: Path) -> None:
    """Pillow's bilinear with the longest side to the image size, zeros round it, more behind where it is odd."""
    pixels = np.random.default_rng(0).integers(0, 255, (101, 170, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ways = [step for name in ("load", "letterbox", "normalize") for step in source.value(f"{name}_transforms")]
    found = Compose(ways)({"image": str(tmp_path / "a.png")})["image"]
    small = np.asarray(Image.fromarray(pixels).resize((224, 133), Image.Resampling.BILINEAR), np.float32) / 255
    square = np.zeros((224, 224, 3), np.float32)
    square[45 : 45 + 133] = small  # (224 - 133) // 2 rows before
    expected = (square - source.value("image_mean")) / source.value("image_std")
    assert np.abs(found.numpy() - expected.transpose(2, 0, 1)).max() < 0.02  # Pillow rounds to 1/255


@pytest.mark.parametrize("kind", ["torchscript", "openvino"])
def test_a_model_that_differs_is_refused_and_nothing_stays(source: Source, tmp_path: Path, kind: str) -> None:
    exporter = Exporter(source, output_dir=tmp_path / "out", threads=1)
    with torch.no_grad():
        source.network.heads["seg"].refine.bias.add_(0.01)  # the exported copy was made before
    found = exporter.export(kind, "float32")
    assert re.search(
        r"model_float32.* is not written: logits must differ by at most 0.0001 from eager, got 0.01", found.error
    )
    assert not list((tmp_path / "out").iterdir())


def test_scores_may_drop_by_their_limits_alone() -> None:
    eager = Scores({"val_dice": 0.8, "val_auroc": 0.9})
    check_scores(Scores({"val_dice": 0.7981, "val_auroc": 0.891}), eager)
    with pytest.raises(Refused, match=r"Dice .* at most 0\.002 from eager's 0\.8000, got 0\.7979"):
        check_scores(Scores({"val_dice": 0.7979, "val_auroc": 0.95}), eager)
    with pytest.raises(Refused, match=r"AUROC .* at most 0\.01 from eager's 0\.9000, got 0\.8890"):
        check_scores(Scores({"val_dice": 0.9, "val_auroc": 0.889}), eager)
    with pytest.raises(Refused, match="got nan"):
        check_scores(Scores({"val_dice": float("nan"), "val_auroc": 0.9}), eager)


def test_exported_and_eager_network_score_alike(exports: dict[str, Any], source: Source) -> None:
    exported = ExportedNetwork(exports["folder"] / "model_float32.xml", threads=1)
    assert scores(source, exported).values == pytest.approx(scores(source, source.network).values, abs=1e-3)


def test_calibration_images_are_training_images_and_the_same_each_time(source: Source) -> None:
    images = CalibrationImages(source, count=5, seed=0)
    first, again = list(images), list(CalibrationImages(source, count=5, seed=0))
    assert len(images) == 5
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert first[0]["image"].shape == (1, 5, 224, 224)
    assert first[0]["image"][:, 3:].max() == 1  # with clicks
    assert first[1]["image"][:, 3:].max() == 0
    assert len(images.dataset) == 12  # those of the training split
    assert source.config["validate#dataset#data#split"] == "val"
    assert len(CalibrationImages(source, count=500, seed=0)) == 12


def test_int8_leaves_in_float_what_the_parts_name(source: Source, tmp_path: Path) -> None:
    exporter = Exporter(source, output_dir=tmp_path, threads=1)
    asked, more = exporter.model.float_parts()
    others = [f"heads.{name}" for name in source.network.head_names if name != "seg"]
    assert asked == ("encoder.stem", "prompter", "heads.seg.classifier", "heads.seg.refine", *others)
    assert more == ("encoder.stem", "prompter", "heads", "decoder")
    for name in (*asked, *more):
        assert any("conv" in op or "linear" in op for op in operations(exporter.openvino, [name])), name
    assert not operations(exporter.openvino, ["head", "deco"])
    assert set(operations(exporter.openvino, asked)) < set(operations(exporter.openvino, more))


def test_only_pairs_that_pay_are_made() -> None:
    assert planned(["onnx", "openvino"], ["bfloat16", "int8"]) == [("openvino", "bfloat16"), ("openvino", "int8")]
    assert planned(["torchscript"], ["int8"]) == []


def test_the_summary_keeps_earlier_models_while_their_files_are_theirs(source: Source, tmp_path: Path) -> None:
    def made(name: str, content: bytes) -> Export:
        (tmp_path / name).write_bytes(content)
        return Export(name, "onnx", "float32", files={name: sha256(tmp_path / name)})

    def listed() -> list[tuple[str, str]]:
        models = json.loads((tmp_path / "export.json").read_text())["models"]
        assert {model["weights_sha256"] for model in models} == {sha256(source.weights)}
        return [(model["name"], model["error"]) for model in models]

    write_summary(source, [made("a.onnx", b"1"), made("b.onnx", b"2")], tmp_path)
    write_summary(source, [made("c.onnx", b"3")], tmp_path)
    assert listed() == [("a.onnx", ""), ("b.onnx", ""), ("c.onnx", "")]
    (tmp_path / "b.onnx").write_bytes(b"of somebody else")
    write_summary(source, [made("a.onnx", b"4"), Export("c.onnx", "onnx", "float32", error="refused")], tmp_path)
    assert listed() == [("c.onnx", ""), ("a.onnx", ""), ("c.onnx", "refused")]


def test_an_export_is_repeated_over_its_own_models(source: Source, tmp_path: Path) -> None:
    for _ in range(2):
        assert not Exporter(source, output_dir=tmp_path, threads=1).export("openvino", "float32").error
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, "model_float32.bin", "model_float32.xml"]


@pytest.mark.slow
def test_reduced_precisions_hold_their_limits_on_the_phantom(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/export.py"), "--output", str(tmp_path), "--formats", "openvino"]
    done = subprocess.run([*command, "--precisions", "bfloat16", "int8"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    models = json.loads((tmp_path / "export.json").read_text())["models"]
    assert [model["precision"] for model in models] == ["bfloat16", "int8"]
    for model in models:
        assert model["eager"]["val_dice"] - model["scores"]["val_dice"] <= 0.002
        assert model["eager"]["val_auroc"] - model["scores"]["val_auroc"] <= 0.01
    assert (tmp_path / "model_int8.bin").stat().st_size < 0.3 * (ROOT / "models/model.pt").stat().st_size


@pytest.mark.slow
def test_the_papers_network_exports(tmp_path: Path) -> None:
    """ConvNeXt-Tiny, batch norm, additive prompts, two class heads that bear no organ's name."""
    files = [ROOT / "configs/train.yaml", ROOT / "configs/paper.yaml"]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    network = parser.get_parsed_content("network_def")
    torch.save({"model": network.state_dict(), "network_config": network.network_config()}, tmp_path / "paper.pt")
    exporter = Exporter(load_source(tmp_path / "paper.pt", config_files=files), output_dir=tmp_path / "out")
    for kind in SUFFIXES:
        assert not exporter.export(kind, "float32").error
