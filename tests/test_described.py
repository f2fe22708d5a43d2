# SPDX-License-Identifier: Apache-2.0
"""Files of others are read as data, by every reader."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.described import described_export, described_network
from bundle.engines import checkpoints
from bundle.export import load_source
from bundle.live.settings import build_segmenter
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.start import load_start
from bundle.networks.weights import load_encoder, load_network, save_checkpoint
from tests.described_files import EXPORTED, PAYLOAD, PLAIN, hostile, small

ROOT = Path(__file__).resolve().parents[1]
HOSTILE: list[tuple[str, Any]] = [
    ("decoder_channels", PAYLOAD),
    ("encoder", f" {PAYLOAD}"),
    ("structures", ["background", PAYLOAD]),
    ("structures", ["background", "@loss"]),
    ("positions", ["%configs/train.yaml::seed"]),
    ("label_sets", {"breast": ["benign", PAYLOAD]}),
    ("label_sets", {"_target_": ["os.system", "true"]}),
    ("norm", {"_target_": "builtins.open", "file": "EXECUTED", "mode": "w"}),
    ("structures", {"_target_": "builtins.open", "file": "EXECUTED", "mode": "w"}),
    ("heads", {"seg": ["background", PAYLOAD]}),
    ("heads", {"_target_": ["os.system", "true"]}),
    ("heads", {"seg": []}),
    ("parts", {"encoder": {"class": PAYLOAD}}),
    ("parts", {"decoder": {"class": "FPN", "_target_": "os.system"}}),
    ("parts", {"decoder": {"class": "FPN", "width": ["@loss"]}}),
    ("parts", {"decoder": {"class": "FPN", "width": [[[[[[1]]]]]]}}),
    ("parts", {"loss": {"class": "FPN"}}),
    ("organs", {"breast": {"structures": [PAYLOAD]}}),
    ("organs", {"breast": {"_target_": "os.system"}}),
    ("organs", {"_target_": None}),
    ("organ_points", {"breast": [PAYLOAD]}),
    ("point_pairs", [["a", "b", "c"]]),
    ("version", "0.5\n$1"),
    ("decoder_channels", 10**9),
    ("decoder_channels", True),
    ("_target_", "os.system"),
    ("encoder_weights", "elsewhere.pt"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plain_values_are_taken() -> None:
    assert described_network(PLAIN, path="model.pt") == PLAIN
    assert described_export(EXPORTED, path="model.onnx") == EXPORTED


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_what_is_no_plain_value_is_named_and_not_repeated(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.pt: network_config .*{key}.* Nothing of it was executed") as error:
        described_network({**PLAIN, key: value}, path="model.pt")
    assert "__import__" not in str(error.value)


def test_a_key_that_is_an_expression_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="got a key that is no name") as error:
        described_network({PAYLOAD: 1}, path="model.pt")
    assert "EXECUTED" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("outputs", [PAYLOAD]),
        ("prompt", {"neutral": PAYLOAD}),
        ("precision_hint", PAYLOAD),
        ("network", {"norm": PAYLOAD}),
    ],
)
def test_what_an_exported_model_says_is_data(key: str, value: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"^m\.xml: (metadata|network_config) .*{'norm' if key == 'network' else key}"
    ):
        described_export({**EXPORTED, key: value}, path="m.xml")
    with pytest.raises(ValueError, match=r"metadata must hold image_channels, .*got none of outputs"):
        described_export({name: value for name, value in EXPORTED.items() if name != "outputs"}, path="m.xml")


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_weights_of_strangers_execute_nothing(here: Path, key: str, value: Any) -> None:
    path = hostile(here / "model.pt", key, value)
    refused = pytest.raises(ValueError, match=rf"model\.pt: network_config .*{key}")
    with refused:
        load_network(small(), path)
    with refused:
        load_start(small(), path)
    with refused:
        load_source(path, config_files=[ROOT / "configs/train.yaml"])
    with refused:
        load_encoder(ConvNeXtEncoder("test_convnext"), name="test_convnext", path=path)
    assert [file.name for file in here.iterdir()] == ["model.pt"]


def test_the_export_command_executes_nothing(here: Path) -> None:
    path = hostile(here / "model.pt", "decoder_channels", PAYLOAD)
    command = [sys.executable, str(ROOT / "scripts/export.py"), "--weights", str(path), "--output", "out"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "must hold a whole number from 1 to 1024 as 'decoder_channels', got a text that begins with" in done.stderr
    assert "EXECUTED" not in done.stderr
    assert [file.name for file in here.iterdir()] == ["model.pt"]


def test_the_live_view_executes_nothing(here: Path) -> None:
    path = hostile(here / "model.pt", "structures", ["background", PAYLOAD])
    with pytest.raises(ValueError, match="a list of 2 to 255 different names as 'structures', got a list of 2"):
        build_segmenter(ROOT, ckpt_path=str(path))
    assert [file.name for file in here.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({"network_config": {**PLAIN, "norm": PAYLOAD}}, r"network_config .*'norm'"),
        ({"identity": {"versions": {}, "options": {"batch_size": PAYLOAD}}}, "identity must hold plain values"),
        ({"identity": {"versions": {}, "options": {PAYLOAD: 1}}}, "identity must hold plain values"),
        ({"identity": {"versions": {}, "options": [{"lr": ["@loss"]}]}}, "identity must hold plain values"),
    ],
    ids=["network", "option", "key", "nested"],
)
def test_a_run_of_strangers_executes_nothing_when_it_is_resumed(here: Path, says: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {name: {} for name in ("network", "average", "optimizer", "lr_scheduler")}
    torch.save({**parts, "epoch": 1, "best": (0.5, 1), **says}, here / "last.pt")
    with pytest.raises(ValueError, match=rf"last\.pt: {message}") as error:
        checkpoints.read_state(here / "last.pt")
    assert "EXECUTED" not in str(error.value)
    assert [file.name for file in here.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    "says",
    [
        {"epoch": "1"}, {"epoch": -1}, {"epoch": True}, {"best": 5}, {"best": ("a", 1)}, {"best": (0.5, 1.5)},
        {"network": []}, {"identity": []}, {"identity": {"options": ["a"]}}, {"identity": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_that_says_what_it_cannot_be_is_refused(here: Path, says: dict[str, Any]) -> None:
    parts: dict[str, Any] = {name: {} for name in ("network", "average", "optimizer", "lr_scheduler")}
    torch.save({**parts, "epoch": 1, "best": (0.5, 1), "identity": {"options": {}}, **says}, here / "last.pt")
    with pytest.raises(ValueError, match=r"^[^\n]*last\.pt must be the checkpoint of a training, got a damaged or"):
        checkpoints.read_state(here / "last.pt")


def test_flags_that_a_refusal_offers_are_plain(tmp_path: Path) -> None:
    other = small(structures=["background", "nodule"])
    organs = {"breast": {"structures": ["nodule"], "classes": ["benign", "malignant"]}, "indis": {}}
    config = {**other.network_config(), "organs": organs}
    save_checkpoint(tmp_path / "m.pt", model=other.state_dict(), network_config=config)
    offered = json.dumps(organs)
    with pytest.raises(ValueError, match=re.escape(f"use --organs '{offered}', or other weights")):
        load_network(small(), tmp_path / "m.pt")
    del config["organs"]  # as of version 0.6, which does not tell what shows a nodule
    save_checkpoint(tmp_path / "m.pt", model=other.state_dict(), network_config=config)
    with pytest.raises(ValueError, match="set organs in the config to what whoever made the file says, or use other"):
        load_network(small(), tmp_path / "m.pt")


PASTED = [
    "a'; touch EXECUTED; '",
    'a"; touch EXECUTED; "',
    "a; touch EXECUTED",
    "`touch EXECUTED`",
    "a$(touch EXECUTED)",
    "a\\",
    "a & touch EXECUTED",
    "a|touch EXECUTED",
    "!!",
    "a > EXECUTED",
    "{a,b}",
    "~",
]


@pytest.mark.parametrize("name", PASTED)
@pytest.mark.parametrize("key", ["structures", "label_sets", "positions"])
def test_no_flag_is_offered_with_names_that_a_shell_may_run(here: Path, key: str, name: str) -> None:
    tables: dict[str, Any] = {"structures": ["background", name], "positions": [name, "indis"]}
    tables["label_sets"] = {"breast": ["benign", name]}
    path = hostile(here / "model.pt", key, tables[key])
    with pytest.raises(ValueError, match="set organs in the config to what") as error:
        load_network(small(), path)
    assert name not in str(error.value)
    assert "--" not in str(error.value)


def test_flags_can_be_pasted(here: Path) -> None:
    """A shell takes them as they were."""
    config = {**PLAIN, "structures": ["background", "plaque (soft)"], "decoder_channels": 24}
    config["label_sets"] = {"breast": ["covid-19", "no finding", "größer 1.5"]}
    config["organs"] = {
        "breast": {"structures": ["plaque (soft)"], "classes": config["label_sets"]["breast"]},
        "indis": {"structures": []},
    }
    torch.save({"model": small().state_dict(), "network_config": config}, here / "model.pt")
    with pytest.raises(ValueError, match="use --decoder_channels 24 --organs") as error:
        load_network(small(), here / "model.pt")
    words = shlex.split(str(error.value).split("use ")[1].removesuffix(", or other weights."))
    assert words[::2] == ["--decoder_channels", "--organs"]
    values = [ast.literal_eval(text) for text in words[1::2]]
    assert values == [24, config["organs"]]


COMMANDS: dict[str, list[str]] = {
    "export": ["--weights", "model.pt", "--output", "out"],
    "live": [str(ROOT / "docs/images"), "--ckpt_path", "model.pt"],
    "active_learning": ["--dataset_dir", ".", "--output", "out/rank.csv", "--weights", "model.pt"],
    "convert_checkpoint": ["model.pt", "new.pt"],
    "benchmark": ["--quick", "--parts", "live", "--weights", "model.pt", "--output", "out/benchmark.json"],
}


@pytest.mark.parametrize("script", COMMANDS)
def test_a_script_ends_with_one_line(here: Path, script: str) -> None:
    """No traceback; the line names the file."""
    hostile(here / "model.pt", "label_sets", {"breast": ["benign", "benign"]})
    (here / "datalist.json").write_text(json.dumps({"version": 1, "root": ".", "datasets": {}, "items": []}))
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *COMMANDS[script]]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert "model.pt" in lines[0]
