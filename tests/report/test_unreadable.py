# SPDX-License-Identifier: Apache-2.0
"""An image or mask that cannot be read costs an evaluation that image only."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def damaged(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny data, of whose four test images one, and the mask of another, cannot be read."""
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    manifest["root"] = str((tiny_data / manifest["root"]).resolve())
    tests = [item for item in manifest["items"] if item["split"] == "test" and item["dataset"] == "Breast"]
    folder = tmp_path / "data set: one"
    folder.mkdir()
    for item, key, name in ((tests[0], "image", "cut.png"), (tests[1], "label", "text.png")):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
        item[key] = str(folder / name)
    (folder / "datalist.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("overlay", ["evaluate.yaml", "evaluate_clicks.yaml"])
def test_an_evaluation_goes_on_without_them_names_them_and_has_status_1(
    training_command: Callable[..., list[str]], damaged: Path, weights: Path, tmp_path: Path, overlay: str
) -> None:
    options: dict[str, Any] = {"dataset_dir": damaged, "ckpt_path": weights, "bootstrap_resamples": 20}
    if overlay == "evaluate_clicks.yaml":
        options["max_clicks"] = 1
    command = training_command(tmp_path, str(ROOT / "configs" / overlay), **options)
    done = subprocess.run(
        [word for word in command if word != "training"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "2 images could not be read and are not scored" in done.stdout.strip().splitlines()[-1]
    folder = tmp_path / "run"
    names = {"evaluate.yaml": ("results.md", "per_image.csv"), "evaluate_clicks.yaml": ("clicks.md", "clicks.csv")}
    text, table = ((folder / name).read_text() for name in names[overlay])
    assert "could not be read (2):" in text
    assert "cut.png: " in text
    assert "mask text.png: " in text
    assert str(damaged) not in text + table
    assert ".." not in text
    images = {row["image"] for row in csv.DictReader(table.splitlines())}
    assert images
    assert not any("cut.png" in image for image in images)
