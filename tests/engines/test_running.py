# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from bundle.engines import run_folder
from bundle.engines.running import hold, model_place, probe, release
from bundle.files import OutputFolder


@contextmanager
def training_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process whose training runs in the folder, until its standard input is closed."""
    program = (
        "import sys; from pathlib import Path; from bundle.engines import run_folder;"
        " from bundle.engines.running import hold; folder = run_folder(sys.argv[1], resume=False);"
        " hold(Path(folder)); print('runs', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        yield process


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_in_which_a_training_runs_is_refused(
    tmp_path: Path, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundle.engines.running.PATIENCE", 0.2)
    (tmp_path / "link").symlink_to("run")
    with training_elsewhere(tmp_path / "run"):
        (tmp_path / "run/last.pt").write_text("other")  # what it has written since
        with pytest.raises(OSError, match=r"link: another training runs in this folder; wait .+ another --output_dir"):
            run_folder(str(tmp_path / "link"), resume=resume)
        assert (tmp_path / "run/last.pt").read_text() == "other"
    OutputFolder(tmp_path / "run").adopt("last.pt")
    run_folder(str(tmp_path / "link"), resume=True)  # it ended, in whatever way
    run_folder(str(tmp_path / "run"), resume=True)  # in this process one follows the other


def test_a_training_that_ended_lets_those_of_other_processes_in(tmp_path: Path) -> None:
    hold(tmp_path)
    release(tmp_path)
    with training_elsewhere(tmp_path):
        pass
    release(tmp_path / "none")


def test_a_config_that_is_resolved_alone_keeps_no_other_training_out(tmp_path: Path) -> None:
    run_folder(str(tmp_path), resume=False)
    with training_elsewhere(tmp_path):
        pass


def test_a_look_at_the_folder_of_an_own_training_does_not_end_its_lock(
    tmp_path: Path,
) -> None:
    hold(tmp_path)
    probe(tmp_path)
    program = "import sys; from pathlib import Path; from bundle.engines import running; running.PATIENCE = 0.2; "
    words = [sys.executable, "-c", program + "running.hold(Path(sys.argv[1]))", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    release(tmp_path)
    assert "another training runs in this folder" in done.stderr


def test_a_training_of_a_client_waits_for_the_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bundle.engines.running.PATIENCE", 0.2)
    monkeypatch.setattr(sys, "argv", ["app.py", "-m", "train", "-r", json.dumps({"model": "x", "max_epochs": 1})])
    with training_elsewhere(tmp_path) as process, caplog.at_level("INFO"):
        threading.Timer(1, process.stdin.close).start()  # type: ignore[union-attr]
        run_folder(str(tmp_path), resume=False)
        assert process.wait(10) == 0
    assert f"another training runs in {tmp_path}; this one waits until it ends" in caplog.text


def test_a_file_that_is_no_checkpoint_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "im0.png").write_bytes(b"\x89PNG")
    with pytest.raises(FileExistsError, match=r"im0\.png: expected a checkpoint or no file, got another one"):
        model_place(tmp_path / "im0.png")
    torch.save({"model": {}}, tmp_path / "model.pt")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1")
    for name in ("model.pt", "new/model.pt", "pointer.pt"):
        assert model_place(tmp_path / name) == tmp_path / name
