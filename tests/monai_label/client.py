# SPDX-License-Identifier: Apache-2.0
"""A client of a MONAI Label server, and the images that it reads and writes."""

import email
import gzip
import io
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NAME = json.loads((ROOT / "configs/metadata.json").read_text())["name"]
STRUCTURES = ["background", "lesion", "head", "nerve", "vessel"]  # of the label maps, by value
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
