# SPDX-License-Identifier: Apache-2.0
"""Exported files at work: in configs/inference.yaml, and in the code that docs/deployment.md shows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from bundle.export import Exporter, Source
from bundle.files import LEDGER

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/deployment.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random, folder = np.random.default_rng(0), tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(random.integers(0, 255, (40, 70), np.uint8)).save(folder / "a.png")
    Image.fromarray(random.integers(0, 255, (90, 50, 3), np.uint8)).save(folder / "b.png")
    Image.fromarray(random.integers(0, 255, (30, 30), np.uint8)).save(folder / "sub/c.png")
    return folder


def predictions(images: Path, out: Path, checkpoint: Path, **options: Any) -> Path:
    workflow = ConfigWorkflow(
        workflow_type="infer", config_file=str(ROOT / "configs/inference.yaml"), meta_file=None, logging_file=False,
        bundle_root=str(ROOT), dataset_dir=str(images), output_dir=str(out), num_workers=0, batch_size=2,
        encoder="test_convnext", decoder_channels=16, ckpt_path=str(checkpoint), **options,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    return out


def results_in(folder: Path) -> list[Path]:
    """Paths of the results within their folder."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != LEDGER)


def test_all_runtimes_write_the_same_files(
    exports: dict[str, Any], checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    expected = predictions(images, tmp_path / "torch", checkpoint, position="limb")
    files = sorted(
        path.relative_to(expected) for path in expected.rglob("*.*") if path.is_file() and path.name != LEDGER
    )
    assert len(files) == 2 * 3 + 2
    for runtime, suffix in (("onnx", "onnx"), ("openvino", "xml"), ("torchscript", "ts")):
        model = str(exports["folder"] / f"model_float32.{suffix}")
        # a missing checkpoint shows that none is read
        options = {"position": "limb", "runtime": runtime, "model_path": model, "runtime_threads": 1}
        found = predictions(images, tmp_path / runtime, Path("/nowhere.pt"), **options)
        assert (
            sorted(path.relative_to(found) for path in found.rglob("*.*") if path.is_file() and path.name != LEDGER)
            == files
        )
        for file in files:
            if file.suffix == ".png":
                assert (found / file).read_bytes() == (expected / file).read_bytes(), f"{runtime} {file}"
        tables = [json.loads((folder / "predictions.json").read_text()) for folder in (found, expected)]
        assert _values(tables[0]["images"]) == pytest.approx(_values(tables[1]["images"]), abs=2e-5)
        assert tables[0]["model"] != tables[1]["model"]
        with (found / "predictions.csv").open() as rows:
            assert len(list(csv.DictReader(rows))) == 3


def _values(content: Any, name: str = "") -> dict[str, Any]:
    """Nested plain values as name -> value."""
    if not isinstance(content, (dict, list)):
        return {name: content}
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    return {key: value for part, inner in pairs for key, value in _values(inner, f"{name}.{part}").items()}


def test_a_model_that_was_not_exported_is_named(images: Path, checkpoint: Path, tmp_path: Path, reasons: Any) -> None:
    with pytest.raises(RuntimeError, match=r"\w") as caught:
        predictions(images, tmp_path / "out", checkpoint, runtime="onnx", model_path="/nowhere/model.onnx")
    assert re.search(r"got /nowhere/model\.onnx, which is none; make it with scripts/export\.py", reasons(caught.value))


def test_documented_code_gives_our_masks(
    exports: dict[str, Any], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (112, 224, 3), np.uint8)  # its longest side is the image size
    Image.fromarray(pixels).save(folder / "image.png")
    monkeypatch.chdir(folder)
    (folder / "exports").symlink_to(exports["folder"])
    names: dict[str, Any] = {}
    exec(EXAMPLES[0], names)
    with_onnx = names["outputs"]
    exec(EXAMPLES[1], names)
    assert list(names["outputs"]) == list(with_onnx)
    for name, expected in with_onnx.items():
        assert np.abs(names["outputs"][name] - expected).max() < 1e-4
    monkeypatch.undo()
    (folder / "exports").unlink()
    model = str(exports["folder"] / "model_float32.onnx")
    out = predictions(folder, tmp_path / "out", checkpoint, runtime="onnx", model_path=model)
    written = np.asarray(Image.open(out / "image_mask.png"))
    assert np.array_equal(written, names["mask"])
    record = json.loads((out / "predictions.json").read_text())["images"][0]
    assert record["organ"]["predicted"] == names["organ"]
    tables = {"organ": record["organ"], **{f"cls_{name}": found for name, found in record["classes"].items()}}
    for name, found in tables.items():
        assert list(found["probabilities"].values()) == pytest.approx(names["classes"][name].tolist(), abs=1e-4)


def test_documented_code_applies_the_gate(
    exports: dict[str, Any], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(exports["folder"] / "model_float32.onnx")
    metadata = json.loads(model.metadata_props[0].value)
    (tmp_path / "exports").mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (112, 224, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    code = EXAMPLES[0].replace('meta["network"]["heads"]["organ"][classes["organ"].argmax()]', '"limb"')
    masks = []
    for gate in (None, {"nerve": 1.0}, {"nerve": 1.0, "vessel": 1.0}):
        onnx.helper.set_model_props(model, {"metadata": json.dumps({**metadata, "gate": gate})})
        onnx.save(model, tmp_path / "exports/model_float32.onnx")
        names: dict[str, Any] = {}
        exec(code, names)
        masks.append(set(np.unique(names["mask"]).tolist()))
    assert 3 in masks[0]
    assert 3 not in masks[1]
    assert masks[2] == {0}


def test_a_model_with_some_heads_reports_what_it_answers(
    source: Source, images: Path, checkpoint: Path, tmp_path: Path
) -> None:
    Exporter(source, output_dir=tmp_path / "models", heads=["breast"], threads=1).export("onnx", "float32")
    model = str(tmp_path / "models/model_float32_breast.onnx")
    out = predictions(images, tmp_path / "out", checkpoint, runtime="onnx", model_path=model, position="breast")
    record = json.loads((out / "predictions.json").read_text())["images"][0]
    assert list(record["classes"]) == ["breast"]
    assert not {"areas", "organ", "points"} & set(record)
