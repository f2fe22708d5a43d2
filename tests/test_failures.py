# SPDX-License-Identifier: Apache-2.0
"""A failure ends with one line that says what went wrong and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bundle.failures import clause, failed, named, reason

ROOT = Path(__file__).resolve().parents[1]


def wrapped(error: BaseException) -> RuntimeError:
    """As MONAI passes an error on, twice."""
    for text in ("applying transform <x>", "Failed to instantiate component 'a.b' with keywords: c"):
        wrapper = RuntimeError(text)
        wrapper.__cause__ = error
        error = wrapper
    assert isinstance(error, RuntimeError)
    return error


def test_the_reason_is_the_first_error_below_the_wrappers() -> None:
    inner = ValueError("a.png: broken")
    inner.__cause__ = OSError("detail")
    assert reason(wrapped(inner)) == "a.png: broken"
    assert reason(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    "text", ["must be whole; copy it again.", "must be whole;\n  copy it again", "must be whole; copy it again..\n"]
)
def test_a_message_within_another_has_no_stop_of_its_own(text: str) -> None:
    assert clause(text) == "must be whole; copy it again"


def test_more_names_than_a_message_holds_are_counted() -> None:
    assert named(["a", "b\nc", "\udcff"]) == r"a, b\nc, \udcff"
    assert named(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_names_of_strangers_do_not_reach_the_terminal_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(ValueError("\x1b[31mred\x9b2J\nerror: all is well")) == 1
    assert capsys.readouterr().err == "error: \\x1b[31mred\\x9b2J error: all is well\n"


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        error = ValueError("a.png: must be whole, got half;\ncopy it again.")
        error.__cause__ = KeyError("raw text of a library")
        raise wrapped(error)


def test_the_reason_of_a_loader_process_is_found_in_its_text() -> None:
    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker") as error:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert reason(error.value) == "a.png: must be whole, got half;\ncopy it again."


def last_line(command: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "terminating due to exception" not in done.stdout + done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1], done.stdout


def test_a_training_that_cannot_start_ends_with_what_to_do(
    training_command: Callable[..., list[str]], tmp_path: Path
) -> None:
    status, line, _ = last_line(training_command(tmp_path, encoder_weights="nowhere.pt"))
    assert status == 1
    assert line == "error: weights must be a file, got nowhere.pt, which is none; correct the path."


def test_a_training_that_meets_a_broken_image_ends_with_its_name(
    training_command: Callable[..., list[str]], tiny_data: Path, tmp_path: Path
) -> None:
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    item = next(item for item in manifest["items"] if item["split"] == "train")
    item["image"] = str(broken)
    manifest["root"] = str((tiny_data / manifest["root"]).resolve())
    (tmp_path / "datalist.json").write_text(json.dumps(manifest))
    for workers in (0, 1):
        command = training_command(tmp_path / str(workers), dataset_dir=tmp_path, num_workers=workers)
        status, line, _ = last_line(command)
        assert status == 1
        assert line.startswith(f"error: {broken}: ")


def test_a_folder_with_a_broken_file_ends_with_its_name(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (40, 30)).save(tmp_path / "images/good.png")
    (tmp_path / "images/bad.png").write_bytes(b"no image")
    options = {"dataset_dir": tmp_path / "images", "output_dir": tmp_path / "out", "ckpt_path": weights}
    options |= {"encoder": "test_convnext", "decoder_channels": 16, "num_workers": 0}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(ROOT / "configs/inference.yaml")]
    status, _, out = last_line(
        command + [text for name, value in options.items() for text in (f"--{name}", str(value))]
    )
    assert status == 1
    assert "1 files failed: bad.png" in out.strip().splitlines()[-1]
