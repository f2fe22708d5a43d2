# SPDX-License-Identifier: Apache-2.0
"""A finished cell is taken only for what it is, and nothing of the user's is replaced.

The trainings and evaluations are other processes; here a stand-in writes what they write.
"""

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundle.files import OutputFolder
from bundle.tables import read_table
from tests.pretraining.scripts import load_script


class Processes:
    """In place of ``subprocess.run``: what was started, and status 1 for what ``fails``."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.fails = ""

    def __call__(self, command: Sequence[str], **_: Any) -> SimpleNamespace:
        options = dict(itertools.pairwise(command))
        kind = "evaluation" if "evaluate.yaml" in options["--config_file"] else "training"
        self.started.append(kind)
        if kind == self.fails:
            return SimpleNamespace(returncode=1)
        if kind == "training":
            weights = Path(options["--ckpt_path"])
            OutputFolder(weights.parent).write(weights.name, options["--max_epochs"].encode())
        else:
            value = {"value": 0.5 if options["--split"] == "val" else 0.25, "low": 0.0, "high": 1.0}
            summary = {"split": options["--split"], "classification": [{"label_set": "breast", "auroc": value}]}
            OutputFolder(options["--output_dir"]).write("summary.json", json.dumps(summary).encode())
        return SimpleNamespace(returncode=0)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(subprocess, "run", made)
    return made


@pytest.fixture
def curve(tiny_data: Path, tmp_path: Path, processes: Processes) -> Callable[..., int]:
    """Runs one cell on one epoch, with other options behind; processes.started tells those of this call."""
    script = load_script("label_curve")

    def call(*options: str) -> int:
        processes.started.clear()
        own = ["--dataset_dir", str(tiny_data), "--percents", "100", "--epochs", "1", "--draws", "16"]
        return int(script.main([*own, "--image_size", "64", "--output_dir", str(tmp_path / "out"), *options]))

    return call


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    return tmp_path / "out/noise_100_0"


def told(tmp_path: Path) -> list[tuple[str, str]]:
    return [(row["split"], row["value"]) for row in read_table(tmp_path / "out/curve.csv")]


def test_a_finished_cell_says_what_it_is_and_is_not_run_again(
    curve: Callable[..., int], processes: Processes, cell: Path
) -> None:
    assert curve("--", "--encoder", "test_convnext") == 0
    assert processes.started == ["training", "evaluation"]
    record = json.loads((cell / "done").read_text())
    assert record["split"] == "val"
    expected = {"epochs": 1, "draws": 16, "image size": 64, "seed": 0, "weights of the encoder": "noise"}
    assert expected.items() <= record["training"].items()
    assert record["training"]["options"] == ["--encoder", "test_convnext"]
    assert record["training"]["data sets"] == ["Breast", "Limb", "Lung"]
    assert len(record["training"]["data list"]) == 64
    assert curve("--", "--encoder", "test_convnext") == 0
    assert processes.started == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "2"], "epochs: the cell has 1, got 2"),
        (["--draws", "8"], "draws: the cell has 16, got 8"),
        (["--image_size", "96"], "image size: the cell has 64, got 96"),
        (["--datasets", "Breast"], "data sets: the cell has ['Breast', 'Limb', 'Lung'], got ['Breast']"),
        (["--", "--norm", "batch"], "options: the cell has [], got ['--norm', 'batch']"),
        (["--split", "test", "--epochs", "2"], "epochs: the cell has 1, got 2"),
        (["--only", "nothing", "--epochs", "2"], "epochs: the cell has 1, got 2"),
    ],
)
@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "trained"])
def test_a_cell_of_another_training_is_refused(
    curve: Callable[..., int],
    processes: Processes,
    cell: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
    stopped: bool,
) -> None:
    processes.fails = "evaluation" if stopped else ""
    assert curve() == (2 if stopped else 0)
    processes.fails = ""
    capsys.readouterr()
    assert curve(*options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"{cell}: expected a cell of this training" in error
    assert "choose another --output_dir, or remove this folder" in error
    assert processes.started == []
    assert curve() == 0  # as it was begun


def test_the_options_of_a_finished_cell_count_without_its_weights_too(
    curve: Callable[..., int], cell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert curve() == 0
    (cell / "model.pt").unlink()
    (cell / "run").mkdir()
    (cell / "run/last.pt").write_bytes(b"")
    assert curve() == 0
    assert curve("--", "--norm", "batch") == 2
    assert "options: the cell has [], got" in capsys.readouterr().err


def test_the_content_of_start_files_counts(
    curve: Callable[..., int], processes: Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "a.pt"
    weights.write_bytes(b"1")
    start = ["--starts", f"pre={weights}", "--", "--start_weights", str(weights)]
    assert curve(*start) == 0
    weights.write_bytes(b"2")
    assert curve(*start) == 2
    error = capsys.readouterr().err
    assert "weights of the encoder: the cell has SHA-256 6b86" in error
    assert f"{weights} (SHA-256 6b86" in error
    weights.write_bytes(b"1")
    assert curve("--starts", f"pre={shutil.copy(weights, tmp_path / 'b.pt')}", *start[2:]) == 0
    assert processes.started == []


def test_another_split_is_scored_without_training_anew(
    curve: Callable[..., int], processes: Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert curve() == 0
    assert told(tmp_path) == [("val", "0.5")]
    assert curve("--split", "test", "--only", "nothing") == 2
    assert "noise_100_0: not finished for --split test, left out" in capsys.readouterr().out
    processes.fails = "evaluation"
    assert curve("--split", "test") == 2
    processes.fails = ""
    assert curve("--split", "test") == 0
    assert processes.started == ["evaluation"]
    assert told(tmp_path) == [("test", "0.25")]


def test_a_stop_between_two_splits_leaves_no_scores_of_the_wrong_one(
    curve: Callable[..., int], processes: Processes, cell: Path, tmp_path: Path
) -> None:
    assert curve() == 0
    processes.fails = "evaluation"
    assert curve("--split", "test") == 2
    processes.fails = ""
    assert curve() == 0
    assert processes.started == ["evaluation"]
    summary = {**json.loads((cell / "eval/summary.json").read_text()), "split": "test"}  # evaluated without the script
    OutputFolder(cell / "eval").write("summary.json", json.dumps(summary).encode())
    assert curve() == 0
    assert processes.started == ["evaluation"]
    assert told(tmp_path) == [("val", "0.5")]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"split": "val"}'])
def test_cells_of_older_versions_are_refused(
    curve: Callable[..., int],
    processes: Processes,
    cell: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:
    assert curve() == 0
    (cell / "done").write_bytes(content)
    assert curve() == 2
    assert "expected a cell that says how it was trained" in capsys.readouterr().err
    (cell / "done").unlink()
    (cell / "training.json").unlink()
    assert curve() == 2  # weights of which nothing says how they were trained
    assert "or remove this folder" in capsys.readouterr().err
    assert processes.started == []


def test_a_failed_or_stopped_training_may_be_begun_with_other_options(
    curve: Callable[..., int], processes: Processes, cell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.fails = "training"
    assert curve("--", "--norm", "wrong") == 2
    assert f"{cell / 'training_1.log'} says why this cell failed" in capsys.readouterr().err
    (cell / "run").mkdir()
    (cell / "run/last.pt").write_bytes(b"")
    assert curve("--", "--num_workers", "0") == 2
    assert processes.started == ["training"]  # it tells itself what it cannot go on with
    assert curve("--draws", "8") == 2
    assert processes.started == []
    (cell / "training.json").unlink()  # begun by an older version
    OutputFolder(cell).folder.joinpath(".ultrasound_uperconvnext_outputs").unlink()
    processes.fails = ""
    assert curve() == 0
    assert processes.started == ["training", "evaluation"]


@pytest.mark.parametrize("name", ["datalist.json", "done", "training.json", "eval/results.md"])
def test_files_of_others_are_kept(
    curve: Callable[..., int], processes: Processes, cell: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (cell / name).parent.mkdir(parents=True)
    (cell / name).write_text("mine")
    logs = [cell / "training_1.log", cell / "evaluation_1.log"]
    for log in logs:
        log.write_text("mine")
    assert curve("--percents", "50", "100") == 2
    assert name in capsys.readouterr().err
    assert processes.started == []  # not in the first cell either
    (cell / name).rename(cell / "moved")
    assert curve() == 0
    assert [(cell / "moved").read_text(), *(log.read_text() for log in logs)] == ["mine"] * 3
