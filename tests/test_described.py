# SPDX-License-Identifier: Apache-2.0
"""Files of others are read as data, by every reader."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bundle.described import described_export, described_network
from bundle.engines import checkpoints
from bundle.engines.runtimes import ExportedNetwork
from bundle.export import load_source
from bundle.live.settings import build_segmenter
from bundle.networks import UPerConvNeXt
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.start import load_start
from bundle.networks.weights import load_encoder, load_network, save_checkpoint
from bundle.programs import NotComputing, check_script

ROOT = Path(__file__).resolve().parents[1]
PLAIN: dict[str, Any] = {
    "encoder": "test_convnext",
    "decoder_channels": 16,
    "structures": ["background", "lesion"],
    "label_sets": {"breast": ["benign", "malignant"]},
    "positions": ["breast", "indis"],
    "conditioning": "film",
    "norm": "group",
    "pooling": "avg",
    "guidance_channels": 0,
}
EXPORTED: dict[str, Any] = {
    "structures": ["background", "lesion"],
    "label_sets": {"breast": ["benign", "malignant"]},
    "positions": ["breast", "indis"],
    "image_size": 64,
    "outputs": ["seg", "cls_breast"],
    "image_channels": ["red", "green", "blue"],
    "prompt": {"neutral": [0.0, 1.0]},
}
PAYLOAD = "$__import__('pathlib').Path('EXECUTED').touch()"
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


def small(**changes: Any) -> UPerConvNeXt:
    torch.manual_seed(0)
    return UPerConvNeXt(**{**PLAIN, **changes})


def hostile(path: Path, key: str, value: Any) -> Path:
    torch.save({"model": small().state_dict(), "network_config": {**PLAIN, key: value}}, path)
    return path


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
    assert "network_config must hold plain values, a whole number from 1 to 4096 as 'decoder_channels'" in done.stderr
    assert "EXECUTED" not in done.stderr
    assert [file.name for file in here.iterdir()] == ["model.pt"]


def test_the_live_view_executes_nothing(here: Path) -> None:
    path = hostile(here / "model.pt", "structures", ["background", PAYLOAD])
    with pytest.raises(ValueError, match="a list of names as 'structures'"):
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


class Writes(nn.Module):
    """A TorchScript program that writes a file when it is loaded."""

    @torch.jit.export
    def __getstate__(self) -> tuple[bool, int]:
        return self.training, 1

    @torch.jit.export
    def __setstate__(self, state: tuple[bool, int]) -> None:
        self.training = state[0]
        torch.save(torch.ones(state[1]), "EXECUTED")

    def forward(self, image: Tensor, prompt: Tensor) -> Tensor:
        return image


class Reads(nn.Module):
    def forward(self, image: Tensor, prompt: Tensor) -> Tensor:
        torch.save(image, "EXECUTED")
        return image


@pytest.mark.parametrize(("module", "found"), [(Writes, "method __"), (Reads, r"torch\.save")])
def test_programs_that_do_more_than_compute_are_not_loaded(here: Path, module: type[nn.Module], found: str) -> None:
    scripted = torch.jit.script(module())
    torch.jit.save(scripted, here / "model.ts", _extra_files={"metadata.json": json.dumps(EXPORTED)})
    with pytest.raises(ValueError, match=rf"model\.ts: .*only compute, got .*{found}"):
        ExportedNetwork(here / "model.ts")
    assert [file.name for file in here.iterdir()] == ["model.ts"]


class Both(nn.Module):
    def forward(self, image: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        return image + 1, prompt + 1


def test_an_exported_model_of_strangers_is_refused(here: Path) -> None:
    traced = torch.jit.trace(Both(), (torch.rand(1, 3, 32, 32), torch.rand(1, 2)))
    text = json.dumps({**EXPORTED, "structures": ["background", PAYLOAD]})
    torch.jit.save(traced, here / "model.ts", _extra_files={"metadata.json": text})
    with pytest.raises(ValueError, match=r"model\.ts: metadata .*'structures'"):
        ExportedNetwork(here / "model.ts")


BODIES = {
    "operator": "  torch.save(x, 'EXECUTED')\n",
    "spaces": "  torch . \\\n save(x, 'EXECUTED')\n",
    "comment": "  (torch.# c\n save)(x, 'EXECUTED')\n",
    "alias": "  t = torch\n  t.save(x, 'EXECUTED')\n",
    "alias of ops": "  o = ops\n  o.aten.save(x, 'EXECUTED')\n",
    "getattr": "  t = getattr(torch, 'save')\n  t(x, 'EXECUTED')\n",
    "ops": "  ops.aten.save(x, 'EXECUTED')\n",
    "file": "  y = torch.from_file('EXECUTED', True, 4)\n",
    "library": "  ops.image.write_file('EXECUTED', x)\n",
    "print": "  print(x)\n",
    "no program": "  def def\n",
}


def script(path: Path, member: str, body: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/code/__torch__/b.py", "def forward(self, x: Tensor):\n  return torch.relu_(x)\n")
        archive.writestr(member, f"def forward(self, x: Tensor):\n{body}  return x\n")
    return path


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_program_cannot_hide_what_it_does(tmp_path: Path, body: str) -> None:
    with pytest.raises(NotComputing, match="its program must"):
        check_script(script(tmp_path / "m.ts", "m/code/__torch__/a.py", body))


@pytest.mark.parametrize(
    "member", ["m/CODE/__torch__/a.py", "m/code/__torch__/a.PY", "m/code/__torch__/B.py", "m/x/code/a.py", "a.py"]
)
def test_a_program_cannot_hide_under_another_name(tmp_path: Path, member: str) -> None:
    with pytest.raises(NotComputing, match=r"its program must stand|a name of its own"):
        check_script(script(tmp_path / "m.ts", member, ""))


def test_flags_that_a_refusal_offers_are_plain(tmp_path: Path) -> None:
    other = small(structures=["background", "nodule"])
    save_checkpoint(tmp_path / "m.pt", model=other.state_dict(), network_config=other.network_config())
    with pytest.raises(ValueError, match=r"use --structures '\[.*nodule.*\]'"):
        load_network(small(), tmp_path / "m.pt")
