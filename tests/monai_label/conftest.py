# SPDX-License-Identifier: Apache-2.0
"""A stock MONAI Label server with this bundle, in an environment of its own, on loopback; and a client of it."""

import contextlib
import email
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NAME = json.loads((ROOT / "configs/metadata.json").read_text())["name"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TIMEOUT = 300  # seconds, for one request, for the server's start and for a training


def read_image(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in the file's own index order, x first, and the matrix (4, 4) from indices to mm (RAS)."""
    if name.endswith((".nii", ".nii.gz")):
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
        return np.asarray(image.dataobj), image.affine
    if not name.endswith(".nrrd"):
        return np.asarray(Image.open(io.BytesIO(content))).swapaxes(0, 1), LPS
    file, affine = io.BytesIO(content), np.eye(4)
    header = nrrd.read_header(file)
    axes = np.asarray(header["space directions"])
    affine[: axes.shape[1], : len(axes)] = axes.T
    affine[: axes.shape[1], 3] = header["space origin"]
    return nrrd.read_data(header, file), LPS @ affine


def write_image(path: Path, pixels: np.ndarray, affine: np.ndarray = LPS) -> Path:
    """Writes upright pixels (H, W) as PNG, or as NIfTI (W, H, 1) with its matrix."""
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(pixels.T[..., None], affine), path)
    return path


@dataclass(frozen=True)
class Answer:
    """What the server says to an image.

    Attributes:
        file: name of the label map's file.
        pixels: the label map in the file's index order, (W, H) or (W, H, 1).
        affine: of that file, indices to mm.
        params: the JSON beside it.
    """

    file: str
    pixels: np.ndarray
    affine: np.ndarray
    params: dict[str, Any]

    @property
    def mask(self) -> np.ndarray:
        """The label map upright, (H, W)."""
        return self.pixels.reshape(self.pixels.shape[:2]).T


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: without a slash at the end.
        process: of the server; it leads the process group.
        bundle: folder of the bundle that it serves.
        studies: folder of its images.
        printed: file of what it prints.
    """

    url: str
    process: subprocess.Popen[bytes]
    bundle: Path
    studies: Path
    printed: Path
    model: str = NAME
    click_model: str = f"{NAME}_deepedit"

    @property
    def weights(self) -> bytes:
        return (self.bundle / "models/model.pt").read_bytes()

    @property
    def memory(self) -> float:
        """Resident memory of the server in MB."""
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, check=True)
        return int(done.stdout) / 1024

    def study(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and matrix of a stored image, see ``read_image``."""
        (file,) = self.studies.glob(f"{name}.*")
        return read_image(file.name, file.read_bytes())

    # -- requests ---------------------------------------------------------------------------------------------------
    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        response = requests.request(method, f"{self.url}/{path}", timeout=TIMEOUT, **options)
        assert response.ok, f"{method} {path}: {response.status_code} {response.text}"
        return response

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, params=query).json()

    def ask(self, image: str, model: str, *, file: Path | None = None, **params: Any) -> requests.Response:
        """Asks for a label map as clients do, of an image of the server or of one that is sent along."""
        files: dict[str, Any] = {"params": (None, json.dumps(params))}
        if file:
            files["file"] = (file.name, file.read_bytes())
        return requests.post(f"{self.url}/infer/{model}", params={"image": image}, files=files, timeout=TIMEOUT)

    def infer(self, image: str = "", model: str = NAME, *, file: Path | None = None, **params: Any) -> Answer:
        response = self.ask(image, model, file=file, **params)
        assert response.status_code == 200, f"{image} {params}: {response.status_code} {response.text}"
        head = b"Content-Type: " + response.headers["content-type"].encode()
        parts = {
            part.get_param("name", header="content-disposition"): part
            for part in email.message_from_bytes(head + b"\r\n\r\n" + response.content).get_payload()
        }
        name = str(parts["image"].get_filename())
        pixels, affine = read_image(name, parts["image"].get_payload(decode=True))
        return Answer(name, pixels, affine, json.loads(parts["params"].get_payload(decode=True)))

    def click(self, image: str = "", *, file: Path | None = None, **params: Any) -> Answer:
        return self.infer(image, self.click_model, file=file, **params)

    # -- labels and tasks -------------------------------------------------------------------------------------------
    def save_label(self, image: str, file: Path) -> None:
        """Saves an annotator's mask, as 3D Slicer does."""
        form = {"params": json.dumps({"label_info": [{"name": "lesion", "idx": 1}]})}
        self.call("PUT", "datastore/label", params={"image": image}, data=form, files={"label": file.open("rb")})

    def remove_label(self, image: str) -> None:
        self.call("DELETE", "datastore/label", params={"id": image, "tag": "final"})

    def start(self, task: str, **params: Any) -> None:
        """Starts "train" or "scoring" in the background."""
        self.call("POST", f"{task}/{NAME}", json={"device": "cpu", **params})

    def stop(self, task: str) -> None:
        self.call("DELETE", f"{task}/")

    def running(self, task: str) -> bool:
        return requests.get(f"{self.url}/{task}/", params={"check_if_running": "true"}, timeout=TIMEOUT).ok

    def finish(self, task: str) -> dict[str, Any]:
        """Waits for the task that was started last; its status and the last lines that it printed."""
        end = time.monotonic() + TIMEOUT
        while (state := self.get(f"{task}/"))["status"] in ("SUBMITTED", "RUNNING") or self.running(task):
            assert time.monotonic() < end, f"{task} must end within {TIMEOUT} s, got {state}"
            time.sleep(0.5)
        return state

    def train_on(self) -> None:
        """Starts a training that does not end by itself, and waits for its first epoch."""
        best = self.bundle / "runs/train/best.pt"
        best.unlink(missing_ok=True)
        self.start("train", max_epochs=10_000, val_split=0)
        end = time.monotonic() + TIMEOUT
        while not best.exists():
            assert time.monotonic() < end, self.get("train/")
            time.sleep(0.5)


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


def ellipse(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Speckle with a dark ellipse off the middle, (H, W) uint8, and its mask of zeros and ones."""
    rng = np.random.default_rng(seed)
    row, column = rng.uniform(0.35, 0.45) * height, rng.uniform(0.55, 0.65) * width
    y, x = np.mgrid[:height, :width]
    mask = ((y - row) / (height / 5)) ** 2 + ((x - column) / (width / 5)) ** 2 <= 1
    return np.clip(rng.normal(90, 25, mask.shape) - 70 * mask, 0, 255).astype(np.uint8), mask.astype(np.uint8)


COS, SIN = np.cos(0.5), np.sin(0.5)
OBLIQUE = LPS @ np.array([[0.2 * COS, -0.3 * SIN, 0, 5], [0.2 * SIN, 0.3 * COS, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]])
"""Indices to mm: pixels of 0.2 mm x 0.3 mm, turned by half a radian, away from the origin."""


def write_studies(folder: Path) -> None:
    """One image of each kind that a study can be, 70 rows and 104 columns, and ``many_*`` of several sizes."""
    gray, _ = ellipse(0, 70, 104)
    color = np.stack([gray, gray // 2, 255 - gray], -1)
    for name in ("gray", "breast1"):  # breast1 is docs/monai_label.md's
        write_image(folder / f"{name}.png", gray)
    write_image(folder / "color.png", color)
    Image.fromarray(gray).save(folder / "photo.jpg", quality=95)
    nibabel.save(nibabel.Nifti1Image(gray.T[..., None].astype(np.float32), OBLIQUE), folder / "volume.nii.gz")
    nibabel.save(nibabel.Nifti1Image(gray.T, np.diag([0.2, 0.3, 1, 1])), folder / "plane.nii.gz")
    vectors = color.swapaxes(0, 1)[:, :, None, None]  # what MONAI Label makes of a color DICOM
    nibabel.save(nibabel.Nifti1Image(vectors, OBLIQUE), folder / "vectors.nii.gz")
    axes = {"space": "left-posterior-superior", "space directions": np.diag([0.2, 0.3, 1]), "space origin": [1, 2, 3]}
    nrrd.write(str(folder / "nearly.nrrd"), gray.T[..., None], axes)
    for i in range(20):
        image, _ = ellipse(10 + i, 60 + 7 * (i % 5), 90 + 11 * (i % 3))
        if i % 2:
            write_image(folder / f"many_{i}.nii.gz", image, np.diag([0.1, 0.1, 1, 1]))
        else:
            write_image(folder / f"many_{i}.png", image)


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
def running_server(python: str, project: Path, folder: Path, *options: str) -> Iterator[Server]:
    """Starts the script on ``folder/studies``, with ``folder/temporary`` for temporary files, on a free port."""
    temporary, printed = folder / "temporary", folder / "server.txt"
    temporary.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(temporary),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
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
