# SPDX-License-Identifier: Apache-2.0
"""Exported models of others are read as data: their programs only compute."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bundle.engines.runtimes import ExportedNetwork
from bundle.programs import NotComputing, checked_script
from tests.described_files import EXPORTED, PAYLOAD


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def behind_another(program: bytes) -> bytes:
    """An archive with two directories: PyTorch finds the program, Python a harmless one of the same names."""
    seen, hidden = io.BytesIO(), io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(program)) as source,
        zipfile.ZipFile(seen, "w") as shown,
        zipfile.ZipFile(hidden, "w") as harmless,
    ):
        for name in source.namelist():
            content = source.read(name)
            shown.writestr(zipfile.ZipInfo(name), content)
            coded = name.endswith(".py")  # as long, so that all places in the second part move by one length
            harmless.writestr(zipfile.ZipInfo(name), b"x = 1\n".ljust(len(content)) if coded else content)
    return seen.getvalue()[:-22] + hidden.getvalue()


def test_a_program_cannot_hide_behind_a_second_directory(here: Path) -> None:
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(Writes()), scripted, _extra_files={"metadata.json": json.dumps(EXPORTED)})
    (here / "model.ts").write_bytes(behind_another(scripted.getvalue()))
    with pytest.raises(ValueError, match=r"model\.ts"):
        ExportedNetwork(here / "model.ts")
    assert [file.name for file in here.iterdir()] == ["model.ts"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_members_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "m.ts", "w", compression) as archive:
        archive.writestr("m/data/0", bytes(10**8))
    with pytest.raises(NotComputing, match="unpack to little more"):
        checked_script(tmp_path / "m.ts")


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
        checked_script(script(tmp_path / "m.ts", "m/code/__torch__/a.py", body))


@pytest.mark.parametrize(
    "member", ["m/CODE/__torch__/a.py", "m/code/__torch__/a.PY", "m/code/__torch__/B.py", "m/x/code/a.py", "a.py"]
)
def test_a_program_cannot_hide_under_another_name(tmp_path: Path, member: str) -> None:
    with pytest.raises(NotComputing, match=r"its program must stand|a name of its own"):
        checked_script(script(tmp_path / "m.ts", member, ""))
