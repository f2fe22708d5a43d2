# SPDX-License-Identifier: Apache-2.0
"""Interrupting and resuming the shipped training: the same result as an unbroken run, to the bit."""

import csv
import logging
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bundle.engines.checkpoints import Checkpoints, write_epoch_file
from bundle.files import LEDGER, OutputFolder
from bundle.networks.weights import read_file
from tests.engines.interrupted import Train, stop_in_epoch_2

RANDOM = {
    "max_epochs": 4,
    "drop_path": 0.2,
    "dropout": 0.1,
    "cutmix_prob": 0.5,
    "num_workers": 1,
}  # all that draws random numbers


def tensors(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of nested mappings and lists with their names."""
    if isinstance(content, (dict, list, tuple)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from tensors(value, f"{name}/{key}")
    else:
        yield name, content


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer and metrics of two runs are equal to the bit, but for the seconds."""
    for name in ("run/last.pt", "run/best.pt", "models/model.pt"):
        values = [dict(tensors(read_file(folder / name))) for folder in (one, other)]
        assert values[0].keys() == values[1].keys()
        differing = [
            key
            for key, value in values[0].items()
            if not (torch.equal(value, values[1][key]) if torch.is_tensor(value) else value == values[1][key])
        ]
        assert not differing, f"{name}: {differing[:5]}"
    tables = [list(csv.DictReader((folder / "run/metrics.csv").open())) for folder in (one, other)]
    for row in tables[0] + tables[1]:
        assert float(row.pop("seconds")) >= 0
    assert tables[0] == tables[1]
    assert [row["epoch"] for row in tables[0]] == [str(e + 1) for e in range(len(tables[0]))]


def test_killed_and_interrupted_run_equals_an_unbroken_one(
    run_training: Train, training_command: Callable[..., list[str]], interruption: Callable[..., str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Killed in epoch 2, ended by SIGTERM in epoch 3 and by Ctrl-C in epoch 4, of three iterations each."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    run_training(unbroken, **RANDOM)
    command = training_command(broken, interruption(signal.SIGKILL, 5), **RANDOM)
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(SystemExit) as caught:
        run_training(broken, interruption(signal.SIGTERM, 8), **RANDOM, resume=True)
    assert caught.value.code == 143
    assert f"interrupted in epoch 3 of 4; 2 epochs are saved in {broken}/run. To continue, run" in caplog.text
    assert not (broken / "models/model.pt").exists()  # an unfinished run serves nothing
    with pytest.raises(KeyboardInterrupt):
        run_training(broken, interruption(signal.SIGINT, 11), **RANDOM, resume=True)
    assert f"interrupted in epoch 4 of 4; 3 epochs are saved in {broken}/run. To continue, run" in caplog.text
    run_training(broken, **RANDOM, resume=True)
    assert_same_run(unbroken, broken)


def test_terminated_command_exits_with_143_and_says_how_to_go_on(
    training_command: Callable[..., list[str]], interruption: Callable[..., str], tmp_path: Path
) -> None:
    command = training_command(tmp_path, interruption(signal.SIGTERM, 4))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert f"1 epochs are saved in {tmp_path}/run. To continue, run the same command with --resume true." in done.stdout


def test_interruption_before_the_first_checkpoint_says_to_start_again(
    run_training: Train, interruption: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path, interruption(signal.SIGINT, 1))
    assert "interrupted in epoch 1 of 2; no epoch is saved yet. To train, run the same command again." in caplog.text


@pytest.mark.slow
def test_killed_at_any_moment(training_command: Callable[..., list[str]], tmp_path: Path) -> None:
    """Killed again and again, also while it starts, validates or saves, until it gets to its end."""
    random = np.random.default_rng(0)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    start = time.monotonic()
    subprocess.run(training_command(unbroken, **RANDOM), check=True, capture_output=True)
    seconds = time.monotonic() - start
    for attempt in range(20):
        resume = (broken / "run/last.pt").exists()
        process = subprocess.Popen(
            training_command(broken, **RANDOM, resume=resume), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            if process.wait(random.uniform(0.5, 1.0 + 0.1 * attempt) * seconds) == 0:
                break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert_same_run(unbroken, broken)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes, as on a disk with that much left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_keeps_the_old_checkpoint(
    run_training: Train, interruption: Callable[..., str], tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    stop_in_epoch_2(run_training, interruption, tmp_path)
    before = (tmp_path / "run/last.pt").read_bytes()
    with largest_file(2_000_000), pytest.raises(RuntimeError) as caught:  # best.pt has 1 MB, last.pt has 4
        run_training(tmp_path, resume=True)
    assert re.search(
        r"run/last\.pt could not be written \(.*File too large\); the files of the epoch before are kept\. "
        r"Free disk space, then continue with --resume true",
        reasons(caught.value),
    )
    assert (tmp_path / "run/last.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*tmp*"))  # no half-written file that takes room
    run_training(tmp_path, resume=True)
    assert read_file(tmp_path / "run/last.pt")["epoch"] == 2


def test_a_run_killed_in_its_first_epoch_in_the_folder_of_another_resumes_as_itself(
    run_training: Train, training_command: Callable[..., list[str]], interruption: Callable[..., str], tmp_path: Path,
) -> None:  # fmt: skip
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    options = {"drop_path": 0.2, "dropout": 0.1}
    run_training(unbroken, **options)
    run_training(broken, seed=7, max_epochs=1)
    old = {path.name: path.read_bytes() for path in (broken / "run").glob("[!.]*.*") if path.is_file()}
    old[LEDGER] = (broken / "run" / LEDGER).read_bytes()
    command = training_command(broken, interruption(signal.SIGKILL, 2), **options)
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    (kept,) = (broken / "run/previous").iterdir()
    assert {path.name: path.read_bytes() for path in kept.glob("*.*") if path.is_file()} == old
    assert list((kept / "tensorboard").iterdir())
    assert not (broken / "run/metrics.csv").exists()
    assert not (broken / "run/best.pt").exists()
    shutil.move(broken / "models", broken / "old")
    run_training(broken, **options, resume=True)
    assert_same_run(unbroken, broken)


def test_commands_in_the_log_work_when_a_link_to_the_folder_is_gone(
    run_training: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MONAI Label trains through a link to the bundle, in a folder that goes with the server."""
    (tmp_path / "real").mkdir()
    caplog.set_level(logging.INFO, "bundle.engines.checkpoints")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run_training(tmp_path / "link", max_epochs=1)
    run_training(tmp_path / "link", max_epochs=1, seed=1)
    found = re.search(r"to bring it back: cp '(.*)' '(.*)'", caplog.text)
    assert found is not None
    real = tmp_path / "real"
    assert Path(found[1]).parent == real / "models/previous"
    assert Path(found[2]) == real / "models/model.pt"
    assert f"--output_dir '{real}" in caplog.text


def test_a_finished_run_stays_as_it_is_and_a_new_one_moves_it_aside(
    run_training: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_training(tmp_path, max_epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    run_training(tmp_path, max_epochs=1, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pt")} == before
    assert "earlier run" not in caplog.text
    run_training(tmp_path, max_epochs=1, seed=1)
    found = re.search(r"earlier run, which was moved to .*--resume true --output_dir '(.*)' to its", caplog.text)
    assert found is not None
    assert (Path(found[1]) / "last.pt").read_bytes() == before[tmp_path / "run/last.pt"]
    assert len(list((tmp_path / "models/previous").iterdir())) == 1


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "metrics.csv", "contact_sheet.png"])
def test_files_of_others_stop_a_new_run_before_its_first_step(
    run_training: Train, tmp_path: Path, reasons: Callable[[BaseException], str], name: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, max_epochs=1)
    assert re.search(rf"run/{name}: expected a free name .*another --output_dir", reasons(caught.value))
    assert (tmp_path / "run" / name).read_text() == "mine"
    assert not {"metrics.csv", "last.pt", "contact_sheet.png"} - {name} & {p.name for p in (tmp_path / "run").iterdir()}


def test_a_run_without_a_list_goes_on_or_moves_aside(run_training: Train, tmp_path: Path) -> None:
    run_training(tmp_path, max_epochs=1)
    for ledger in tmp_path.rglob(LEDGER):
        ledger.unlink()
    shipped = (tmp_path / "models/model.pt").read_bytes()
    with (tmp_path / "run/metrics.csv").open("a") as table:
        table.write("\n")  # opened and saved in a spreadsheet
    run_training(tmp_path, max_epochs=1, resume=True)
    for ledger in tmp_path.rglob(LEDGER):
        ledger.unlink()
    run_training(tmp_path, max_epochs=1, seed=1)  # a new run in the same folder, as MONAI Label's trainings are
    (kept,) = (path for path in (tmp_path / "models/previous").iterdir() if path.suffix == ".pt")
    assert kept.read_bytes() == shipped  # moved aside, not refused, though no list knows it
    assert len(list((tmp_path / "run/previous").glob("*/last.pt"))) == 1


def test_served_weights_are_the_average_of_the_best_epoch(run_training: Train, tmp_path: Path) -> None:
    run_training(tmp_path)
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    scores = [float(row["val_score"]) for row in rows]
    last, best = read_file(tmp_path / "run/last.pt"), read_file(tmp_path / "run/best.pt")
    assert last["best"] == (pytest.approx(max(scores), abs=1e-4), scores.index(max(scores)) + 1)
    assert (tmp_path / "models/model.pt").read_bytes() == (tmp_path / "run/best.pt").read_bytes()
    average = {name: last["average"][f"module.{name}"] for name in best["model"]}
    cut = [name for name, value in best["model"].items() if value.shape != average[name].shape]
    assert {name.split(".")[1] for name in cut} == {"organ", "presence"}  # rows that no item teaches
    differing = [
        name for name, value in best["model"].items() if name not in cut and not torch.equal(value, average[name])
    ]
    assert bool(differing) == (last["best"][1] != 2)


@pytest.mark.parametrize("name", ["ckpt_dir", "output_dir"])
def test_an_unwritable_folder_stops_the_run_at_its_start(
    run_training: Train, tmp_path: Path, reasons: Callable[[BaseException], str], name: str
) -> None:
    """A file in its place, as tests may run as root, who may write everywhere."""
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, **{name: str(tmp_path / "file")})
    assert re.search(
        r"file\S* must be a writable folder, got: .*; choose others with --output_dir and --ckpt_dir",
        reasons(caught.value),
    )
    assert not (tmp_path / "run/metrics.csv").exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path, folder = tmp_path / "table.csv", OutputFolder(tmp_path)
    write_epoch_file(folder, "table.csv", b"old")

    def fail(new: Path) -> None:
        new.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"table\.csv could not be written \(\[Errno 28\] No space left on device\)"):
        write_epoch_file(folder, "table.csv", fail)
    assert sorted(file.name for file in tmp_path.iterdir()) == [LEDGER, "table.csv"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("key", "value"),
    [("click_radius", 0), ("image_size", 4096), ("image_std", [0.2, 0.0, 0.2]), ("gate", {"lesion": 2}), ("other", 1)],
)
def test_a_run_whose_weights_no_reader_would_take_does_not_start(key: str, value: Any) -> None:
    parts: dict[str, Any] = dict.fromkeys(("network", "average", "optimizer", "lr_scheduler", "evaluator"))
    with pytest.raises(ValueError, match=rf"^described in the config: network_config must hold .*'{key}'"):
        Checkpoints(**parts, output_dir="out", model_path="model.pt", described={key: value})
