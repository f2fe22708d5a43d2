# SPDX-License-Identifier: Apache-2.0
"""A stock MONAI Label server with this bundle, in an environment of its own, on loopback; and a client of it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.monai_label.client import NAME, ROOT, TIMEOUT, Server, write_image
from tests.monai_label.raw_requests import changed, png, settled
from tests.monai_label.studies import write_studies


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says how much memory the server took."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def label_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Python of a new environment with requirements-label.txt, or the one that MONAI_LABEL_PYTHON names."""
    if os.name != "posix":
        pytest.skip(f"the server is stopped by its process group, which {sys.platform} does not have")
    if given := os.environ.get("MONAI_LABEL_PYTHON"):
        yield given
        return
    folder = tmp_path_factory.mktemp("environment")
    python = str(folder / "bin/python")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    same = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
    for words in (["install", "--no-compile", "-r", str(ROOT / "requirements-label.txt"), *same], ["check"]):
        done = subprocess.run([python, "-m", "pip", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"pip {words[0]}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    yield python
    shutil.rmtree(folder)  # some 8 GB


def wait_until_up(process: subprocess.Popen[bytes], printed: Path) -> str:
    """The address that the server prints once it answers."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(
            r"^MONAI Label serves .+ at (http://127\.0\.0\.1:\d+)$", printed.read_text(), re.MULTILINE
        ):
            return found[1]
        time.sleep(0.5)
    pytest.fail(f"the server must answer within {TIMEOUT} s; it printed\n{printed.read_text()[-3000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and all that it started: they are its process group."""
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the server needs of this checkout, so that trainings change its weights."""
    folder = tmp_path_factory.mktemp("project") / NAME
    for part in ("bundle", "configs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "monailabel_*"))
    for file in ("models/model.pt", "scripts/label_server.py"):
        (folder / file).parent.mkdir()
        shutil.copy2(ROOT / file, folder / file)
    config = folder / "configs/train.yaml"
    config.write_text(config.read_text().replace("labels_steps: 10 ", "labels_steps: 1 "))  # of an epoch; to be quick
    return folder


@contextlib.contextmanager
def running_server(python: str, project: Path, folder: Path, *options: str, scoring: bool = False) -> Iterator[Server]:
    """Starts the script on ``folder/studies``, with ``folder/temporary`` for temporary files, on a free port.

    ``scoring``: whether the server starts it by itself.
    """
    temporary, printed = folder / "temporary", folder / "server.txt"
    temporary.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(temporary),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": str(scoring).lower(),
    }
    words = [python, str(project / "scripts/label_server.py"), "--studies", "studies", "--port", "0", *options]
    with printed.open("wb") as output:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Server(wait_until_up(process, printed), process, project, folder / "studies", printed)
    finally:
        stop(process)


@pytest.fixture(scope="session")
def server(label_python: str, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, with the images of ``write_studies``. Its scoring runs when a test asks for it alone."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "studies").mkdir()
    write_studies(folder / "studies")
    with running_server(label_python, project, folder) as started:
        yield started


@pytest.fixture(scope="session")
def launch() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Gives ``running_server``."""
    return running_server


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Gives ``write_image``."""
    return write_image


@pytest.fixture(scope="session")
def labeled(server: Server, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Studies with labels as clients save them: PNG, NIfTI for a PNG study as 3D Slicer does, NIfTI for NIfTI."""
    folder, kinds = tmp_path_factory.mktemp("labels"), (".png", ".nii.gz", ".nii.gz", ".nii.gz")
    studies = ["gray", "color", "volume", "many_1"]
    for study, suffix in zip(studies, kinds, strict=True):
        image, affine = server.study(study)
        mask = np.zeros(image.shape[1::-1], np.uint8)
        mask[15:40, 45:75] = 1
        server.save_label(study, write_image(folder / f"{study}{suffix}", mask, affine))
    return studies


@pytest.fixture
def outside(server: Server) -> Iterator[Path]:
    """An image beside the studies. Nothing that a test sends may change it, nor the studies, nor the weights."""
    file = server.studies.parent / "outside/secret.png"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(png())
    before = settled(server)
    yield file
    assert not changed(server, before)
    assert not list(server.studies.parent.rglob("EXECUTED"))
    assert server.process.poll() is None
