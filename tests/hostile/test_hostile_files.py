# SPDX-License-Identifier: Apache-2.0
"""One inference over 300 malformed files: each is named, the good ones are done, and nothing else happens."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.hostile.dicom_files import bases
from tests.hostile.folder import NO_VIDEO, WHOLE, directory, make_good, make_hostile

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 400  # seconds of a run
MOST = 2.5e6  # KiB above those of a run over good files alone; the largest picture that is read takes most


def infer(images: Path, output: Path, weights: Path) -> tuple[int, str, int]:
    """Status, what it said, and the most memory that it had, in KiB."""
    options = {
        "config_file": ROOT / "configs/inference.yaml", "bundle_root": ROOT, "dataset_dir": images,
        "output_dir": output, "ckpt_path": weights, "encoder": "test_convnext", "decoder_channels": 16,
        "check_images": False, "frames": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    top = output.parents[1]
    places = {name: str(top / name.lower()) for name in ("HOME", "TMPDIR")}
    with open(top / "said", "wb") as said:
        process = subprocess.Popen(command, cwd=top / "work", stdout=said, stderr=said, env={**os.environ, **places})
        end = time.monotonic() + LONGEST
        while (done := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                process.kill()
                pytest.fail(f"no end after {LONGEST} s: {(top / 'said').read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
    process.returncode = os.waitstatus_to_exitcode(done[1])
    return process.returncode, (top / "said").read_text(errors="replace"), done[2].ru_maxrss


def state(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but for what a run writes."""
    files = (path for path in folder.rglob("*") if path.is_file() and "out" not in path.parts and path.name != "said")
    return {str(path): path.read_bytes() for path in files if ".config/matplotlib" not in str(path)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_300_malformed_files_cost_themselves_alone(tmp_path: Path, weights: Path) -> None:
    top = tmp_path / "a/b"
    images, good = top / "images", top / "good"
    for name in ("images", "good", "work", "home", "tmpdir", "out"):
        (top / name).mkdir(parents=True)
    (tmp_path / "secret.dcm").write_bytes(bases()["explicit"].replace(b"liver ", b"SECRET"))
    whole = make_good(good, str(tmp_path / "x"))
    status, said, least = infer(good, top / "out/good", weights)
    assert status == 0, said
    made = make_hostile(images, total=300)
    assert len(list(images.iterdir())) == 300
    make_good(images, str(tmp_path / "x"))
    (images / "DICOMDIR").write_bytes(directory(["..", "..", "..", "SECRET.DCM"]))
    before = state(tmp_path)
    status, said, most = infer(images, top / "out/all", weights)
    assert status == 1, said
    assert "Traceback" not in said
    assert "pydicom" not in said.replace("pydicom_", "")  # its warnings repeat entries of headers
    assert state(tmp_path) == before
    assert most - least < MOST, (most, least)
    rows: dict[str, list[str]] = {}
    for row in json.loads((top / "out/all/predictions.json").read_text())["images"]:
        rows.setdefault(row["file"], []).append(row["error"])
    for path in images.iterdir():
        assert path.name in rows or path.name in said, path.name
    for name in whole:
        assert not any(rows[name]), (name, rows[name])
        masks = sorted((top / "out/all").glob(f"{name[:-4]}*_mask.png"))
        assert len(masks) == len(rows[name])
        assert all(Image.open(mask).size == (48, 32) for mask in masks)
    for name in made:
        if name.startswith("video_") and not any(kind in name for kind in NO_VIDEO):
            continue
        named = any(rows[name]) or f"{name}: expected" in said
        assert named != (name in WHOLE), (name, rows[name])
    written = [path.read_bytes() for path in (top / "out").rglob("*") if path.is_file()]
    assert not any(b"SECRET" in content for content in written)
