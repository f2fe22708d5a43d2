# SPDX-License-Identifier: Apache-2.0
"""Files of others are read as data, by every reader."""

from __future__ import annotations

import ast
import json
import shlex
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
    "loop without end": "  while True:\n    x = torch.relu(x)\n",
    "long loop": "  for i in x:\n    x = torch.relu(x)\n",
    "comprehension": "  y = [torch.relu(z) for z in x]\n",
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
    with pytest.raises(ValueError, match=r"""use --structures '\["background", "nodule"\]', or other weights"""):
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
    with pytest.raises(ValueError, match=rf"set {key} in the config to what") as error:
        load_network(small(), path)
    assert name not in str(error.value)
    assert "--" not in str(error.value)


def test_flags_can_be_pasted(here: Path) -> None:
    """A shell takes them as they were."""
    config = {**PLAIN, "structures": ["background", "plaque (soft)"], "decoder_channels": 24}
    config["label_sets"] = {"lung": ["covid-19", "no finding", "größer 1.5"]}
    torch.save({"model": small().state_dict(), "network_config": config}, here / "model.pt")
    with pytest.raises(ValueError, match="use --decoder_channels 24 --structures") as error:
        load_network(small(), here / "model.pt")
    words = shlex.split(str(error.value).split("use ")[1].removesuffix(", or other weights."))
    assert words[0:4:2] == ["--decoder_channels", "--structures"]
    values = [ast.literal_eval(text) for text in words[1::2]]
    assert values == [24, config["structures"], config["label_sets"]]


ODD: list[tuple[str, Any, str]] = [
    ("encoder", "hf-hub:owner/x", "one of timm's ConvNeXt names as 'encoder', got a text that is no plain name"),
    ("encoder", "local-dir:/x", "got a text that is no plain name"),
    ("encoder", "convnext_atto.x/../y", "got a text that is no plain name"),
    ("encoder", "convnext_atto.other", "got 'convnext_atto.other'"),
    ("encoder", "resnet18", "got 'resnet18'"),
    ("encoder", "", "got ''"),
    ("encoder", ["convnext_atto"], r"got \['convnext_atto'\]"),
    ("encoder", None, "got None"),
    ("decoder_channels", -96, "a whole number from 1 to 1024 as 'decoder_channels', got -96"),
    ("decoder_channels", 0, "got 0"),
    ("decoder_channels", 4096, "got 4096"),
    ("decoder_channels", 10**30, "got a number of more than 20 digits"),
    ("decoder_channels", 96.0, "got 96.0"),
    ("decoder_channels", "96", "got '96'"),
    ("decoder_channels", [96], r"got \[96\]"),
    ("structures", [], r"2 to 255 different names as 'structures', got \[\]"),
    ("structures", ["background"], r"got \['background'\]"),
    ("structures", ["background", "lesion", "lesion"], r"got \['background', 'lesion', 'lesion'\]"),
    ("structures", ["background", "x" * 101], "got a list of 2"),
    ("structures", [str(index) for index in range(256)], "got a list of 256"),
    ("structures", "background", "got 'background'"),
    ("structures", {"background": "lesion"}, "got {'background': 'lesion'}"),
    ("structures", {"background": "<b>"}, "got a table of 1"),
    ("structures", ["background", 5], r"got \['background', 5\]"),
    ("label_sets", {"breast": []}, "a table of names and lists of 2 to 255 different names as 'label_sets', got"),
    ("label_sets", {"breast": ["benign"]}, "as 'label_sets', got"),
    ("label_sets", {"breast": ["benign", "benign"]}, "as 'label_sets', got"),
    ("label_sets", {"breast": "benign"}, "as 'label_sets', got"),
    ("label_sets", {f"set{index}": ["a", "b"] for index in range(256)}, "as 'label_sets', got a table of 256"),
    ("label_sets", ["breast"], r"got \['breast'\]"),
    ("positions", [], r"as 'positions', got \[\]"),
    ("positions", ["breast", "breast", "indis"], "as 'positions', got"),
    ("positions", ["breast"], r"positions must hold the neutral value 'indis', got \['breast'\]"),
    ("conditioning", "other", "film, additive or none as 'conditioning', got 'other'"),
    ("conditioning", ["film"], r"got \['film'\]"),
    ("norm", 1, "group or batch as 'norm', got 1"),
    ("pooling", None, "avg or avgmax as 'pooling', got None"),
    ("guidance_channels", 1, "0 or 2 as 'guidance_channels', got 1"),
    ("guidance_channels", -2, "got -2"),
    ("version", 5, "as 'version', got 5"),
]


@pytest.mark.parametrize(("key", "value", "message"), ODD, ids=[f"{row[0]}{number}" for number, row in enumerate(ODD)])
def test_a_plain_value_that_describes_no_network_is_refused(here: Path, key: str, value: Any, message: str) -> None:
    path = hostile(here / "model.pt", key, value)
    refused = pytest.raises(ValueError, match=rf"^[^\n]*model\.pt: [^\n]*{message}[^\n]*$")
    with refused:
        load_source(path, config_files=[ROOT / "configs/train.yaml"])
    with refused:
        load_network(small(), path)
    with refused:
        load_start(small(), path)
    if key != "positions":
        with refused:
            load_encoder(ConvNeXtEncoder("test_convnext"), name="test_convnext", path=path)


@pytest.mark.parametrize("key", ["encoder", "decoder_channels", "label_sets", "positions", "conditioning", "norm"])
def test_a_checkpoint_must_describe_all_of_its_network(here: Path, key: str) -> None:
    config = {name: value for name, value in PLAIN.items() if name != key}
    torch.save({"model": small().state_dict(), "network_config": config}, here / "model.pt")
    with pytest.raises(ValueError, match=rf"model\.pt: network_config must hold encoder, .*got none of {key}[;.]"):
        load_source(here / "model.pt", config_files=[ROOT / "configs/train.yaml"])


STATES: list[tuple[str, Any, str]] = [
    ("a number", 5, r"model must be a table of names and tensors, got a value that is none: 'decoder\.refine\.bias'"),
    ("whole numbers", torch.ones(2, dtype=torch.long), r"decoder\.refine\.bias is \[2\] of int64 .*expected \[2\]"),
    ("complex", torch.ones(2, dtype=torch.cfloat), r"decoder\.refine\.bias is \[2\] of complex64"),
    ("sparse", torch.ones(2).to_sparse(), r"decoder\.refine\.bias is \[2\] of sparse_coo"),
    ("meta", torch.ones(2, device="meta"), r"decoder\.refine\.bias is \[2\] of meta"),
    ("shape", torch.ones(3), r"decoder\.refine\.bias is \[3\] in the file, expected \[2\]"),
]


@pytest.mark.parametrize(("kind", "value", "message"), STATES, ids=[state[0] for state in STATES])
def test_what_is_no_weight_is_refused(here: Path, kind: str, value: Any, message: str) -> None:
    state = {**small().state_dict(), "decoder.refine.bias": value}
    torch.save({"model": state, "network_config": PLAIN}, here / "model.pt")
    with pytest.raises(ValueError, match=message):
        load_network(small(), here / "model.pt")
    started = message if kind == "a number" else r"refine\.bias must have shape \[2\], got \["
    with pytest.raises(ValueError, match=started):
        load_start(small(), here / "model.pt")


COMMANDS: dict[str, list[str]] = {
    "export": ["--weights", "model.pt", "--output", "out"],
    "live": [str(ROOT / "docs/images"), "--ckpt_path", "model.pt"],
    "active_learning": ["rank", "--dataset_dir", ".", "--output", "out/rank.csv", "--weights", "model.pt"],
    "convert_checkpoint": ["model.pt", "new.pt"],
    "benchmark": ["--quick", "--parts", "live", "--weights", "model.pt", "--output", "out/benchmark.json"],
    "label_rates": ["--dataset_dir", ".", "--weights", "model.pt", "--output", "out"],
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
    assert ("datalist.json" if script == "label_rates" else "model.pt") in lines[0]
