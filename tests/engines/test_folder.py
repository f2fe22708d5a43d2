# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.engines import run_folder
from bundle.engines.folder import earlier_runs
from bundle.engines.running import LOCK
from bundle.files import LEDGER, OutputFolder


def leave_run(folder: Path, name: str, *, hour: int) -> None:
    """The files of a run whose last epoch ended at that hour of 2026-01-01, with ``name`` in each."""
    (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
    for file in (
        "last.pt",
        "best.pt",
        "metrics.csv",
        "contact_sheet.png",
        "tensorboard/events.out.tfevents.1.host.7.0",
    ):
        (folder / file).write_text(name)
    for name in ("last.pt", "best.pt", "metrics.csv", "contact_sheet.png"):
        OutputFolder(folder).adopt(name)
    for path in [folder / "tensorboard", *folder.glob("*.*")]:
        os.utime(path, (1767225600 + 3600 * hour,) * 2)


def test_an_earlier_run_moves_aside_whole(tmp_path: Path) -> None:
    leave_run(tmp_path, "old", hour=0)
    (tmp_path / "notes.txt").write_text("mine")
    assert run_folder(str(tmp_path), resume=False) == str(tmp_path)
    (kept,) = earlier_runs(tmp_path)
    assert sorted(path.name for path in kept.rglob("*") if path.is_file()) == [
        LEDGER, "best.pt", "contact_sheet.png", "events.out.tfevents.1.host.7.0", "last.pt", "metrics.csv",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, LEDGER, "notes.txt", "previous", "tensorboard"]


@pytest.mark.parametrize("name", ["metrics.csv", "best.pt", "last.pt", "contact_sheet.png"])
def test_files_that_are_of_no_run_are_not_moved(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{name}: expected a free name"):
        run_folder(str(tmp_path), resume=False)
    assert (tmp_path / name).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, name}


@pytest.mark.parametrize("resume", [True, "true"])
def test_a_resumed_run_keeps_its_files(tmp_path: Path, resume: bool | str) -> None:
    leave_run(tmp_path, "own", hour=0)
    run_folder(str(tmp_path), resume=resume)
    assert (tmp_path / "last.pt").read_text() == "own"
    assert not (tmp_path / "previous").exists()


def test_three_earlier_runs_are_kept_and_the_removed_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "previous").mkdir()
    (tmp_path / "previous/model_0123abcd.pt").write_text("weights that were served")
    for n in range(5):
        leave_run(tmp_path, f"run {n}", hour=n)
        run_folder(str(tmp_path), resume=False)
    assert [(folder / "last.pt").read_text() for folder in earlier_runs(tmp_path)] == ["run 2", "run 3", "run 4"]
    assert caplog.text.count("removed ") == 2
    assert (tmp_path / "previous/model_0123abcd.pt").is_file()


def test_what_did_not_complete_an_epoch_pushes_no_run_out(tmp_path: Path) -> None:
    leave_run(tmp_path, "good", hour=0)
    for _ in range(5):
        run_folder(str(tmp_path), resume=False)
        parts: dict[str, Any] = {name: {} for name in ("network", "average", "optimizer", "lr_scheduler", "identity")}
        torch.save({**parts, "epoch": 0, "best": (-1.0, -1)}, tmp_path / "last.pt")
        (tmp_path / "tensorboard/events.out.tfevents.2.host.7.0").touch()
    run_folder(str(tmp_path), resume=False)
    assert [(folder / "last.pt").read_text() for folder in earlier_runs(tmp_path)] == ["good"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, LEDGER, "previous", "tensorboard"]
    assert not list((tmp_path / "tensorboard").glob("events*"))


def test_commands_that_end_before_an_epoch_push_no_run_out(tmp_path: Path) -> None:
    leave_run(tmp_path, "good", hour=0)
    for _ in range(5):
        run_folder(str(tmp_path), resume=False)
        (tmp_path / "tensorboard/events.out.tfevents.2.host.7.0").touch()
    assert [(folder / "last.pt").read_text() for folder in earlier_runs(tmp_path)] == ["good"]


@pytest.mark.parametrize("option", ["start_weights", "encoder_weights"])
def test_weights_that_are_not_there_move_nothing(tmp_path: Path, option: str) -> None:
    leave_run(tmp_path, "good", hour=0)
    options: dict[str, Any] = {option: str(tmp_path / "typo.pt")}
    with pytest.raises(FileNotFoundError, match=rf"{option} .*typo\.pt: expected a file of weights, got none"):
        run_folder(str(tmp_path), resume=False, **options)
    assert (tmp_path / "last.pt").read_text() == "good"


@pytest.mark.parametrize("option", ["start_weights", "encoder_weights"])
def test_an_earlier_run_stays_while_a_training_starts_from_it(tmp_path: Path, option: str) -> None:
    for n in range(4):
        leave_run(tmp_path, f"run {n}", hour=n)
        oldest = [str(folder / "best.pt") for folder in earlier_runs(tmp_path)[:1]]
        options: dict[str, Any] = {option: oldest[0]} if n == 3 else {}
        run_folder(str(tmp_path), resume=False, **options)
    assert [(folder / "best.pt").read_text() for folder in earlier_runs(tmp_path)] == [f"run {n}" for n in range(4)]


@pytest.mark.parametrize("run", [False, True], ids=["alone", "beside a run"])
def test_logs_behind_a_link_are_not_touched(tmp_path: Path, run: bool) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "events.out.tfevents.1.mine").write_text("mine")
    folder = tmp_path / "run"
    if run:
        leave_run(folder, "good", hour=0)
        for log in (folder / "tensorboard").iterdir():
            log.unlink()
        (folder / "tensorboard").rmdir()
    else:
        folder.mkdir()
    (folder / "tensorboard").symlink_to(mine)
    with pytest.raises(FileExistsError, match=r"tensorboard: expected a free name for this run's logs, got a link"):
        run_folder(str(folder), resume=False)
    assert (mine / "events.out.tfevents.1.mine").read_text() == "mine"


def test_logs_of_others_are_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/events.out.tfevents.1.mine").write_text("mine")
    with pytest.raises(FileExistsError, match=r"tensorboard: expected a free name .* got logs that no run wrote"):
        run_folder(str(tmp_path), resume=False)
    assert (tmp_path / "tensorboard/events.out.tfevents.1.mine").read_text() == "mine"


def test_starting_from_weights_that_would_move_is_refused(tmp_path: Path) -> None:
    leave_run(tmp_path, "old", hour=0)
    weights = str(tmp_path / "x/../best.pt")
    with pytest.raises(ValueError, match=r"best\.pt is a file of the run in .*; choose another --output_dir"):
        run_folder(str(tmp_path), resume=False, start_weights=weights)
    assert (tmp_path / "best.pt").read_text() == "old"
