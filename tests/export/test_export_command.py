# SPDX-License-Identifier: Apache-2.0
"""The command writes models and what they are, and says what is wrong."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.engines.runtimes import SUFFIXES
from bundle.files import LEDGER, OutputFolder, sha256

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "configs/train.yaml"
FORMATS = sorted(SUFFIXES)


@pytest.fixture
def main() -> Iterator[Callable[[list[str]], int]]:
    """The command line."""
    spec = importlib.util.spec_from_file_location("export", ROOT / "scripts/export.py")
    assert spec is not None
    assert spec.loader is not None
    module, threads = importlib.util.module_from_spec(spec), torch.get_num_threads()
    spec.loader.exec_module(module)
    yield module.main
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "/nowhere/model.pt"], r"weights must be a file, got /nowhere/model\.pt"),
        (["--config", "/nowhere/train.yaml"], r"config must be a file, got /nowhere/train\.yaml"),
        (["--datalist", "/nowhere/datalist.json"], r"datalist must be a file, got /nowhere/datalist\.json"),
        (
            ["--heads", "seg", "kidney"],
            r"heads must be among \['seg', .*\], got \['kidney'\]",
        ),
        (["--formats", "torchscript", "--precisions", "int8"], "formats and precisions must meet"),
        (
            ["--config", str(TRAIN), str(ROOT / "configs/paper.yaml")],
            r".*model\.pt was made with heads .*'organ': .*; this network has heads",
        ),
    ],
)
def test_command_line_says_what_is_wrong(
    main: Callable[[list[str]], int], checkpoint: Path, tmp_path: Path, capsys: Any, options: list[str], message: str
) -> None:
    command = ["--weights", str(checkpoint), "--output", str(tmp_path / "out"), "--threads", "1", *options]
    assert main(command) == 1
    assert re.search(f"error: {message}", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_command_line_writes_models_and_what_they_are(
    main: Callable[[list[str]], int], checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    OutputFolder(tmp_path).write("model_float32.bin", b"of a former export")
    options = ["--formats", "openvino", "--precisions", "float32", "--threads", "1"]
    assert main(["--weights", str(checkpoint), "--output", str(tmp_path), *options]) == 0
    files = ["export.json", "model_float32.bin", "model_float32.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, *files]
    model = json.loads((tmp_path / "export.json").read_text())["models"][0]
    assert model["files"] == {name: sha256(tmp_path / name) for name in files[1:]}
    assert model["difference"] < 1e-4
    assert "[1/1] openvino float32" in capsys.readouterr().out


def test_command_line_tells_a_refusal(
    main: Callable[[list[str]], int], checkpoint: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundle.export.verify.MAX_DIFFERENCE", -1.0)
    options = ["--formats", "torchscript", "--precisions", "float32", "--threads", "1"]
    assert main(["--weights", str(checkpoint), "--output", str(tmp_path), *options]) == 1
    assert re.search(r"refused: .*model_float32\.ts is not written: logits must differ", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, "export.json"]


@pytest.mark.parametrize("name", ["model_float32.bin", "model_float32.ts", "export.json"])
def test_files_of_others_stop_the_export_before_the_work(
    main: Callable[[list[str]], int], checkpoint: Path, tmp_path: Path, capsys: Any, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    options = ["--formats", "torchscript", "openvino", "--precisions", "float32", "--threads", "1"]
    assert main(["--weights", str(checkpoint), "--output", str(tmp_path), *options]) == 1
    written = capsys.readouterr()
    assert f"{name}: expected a free name or an unchanged file of an earlier run" in written.err
    assert "[1/" not in written.out
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]
