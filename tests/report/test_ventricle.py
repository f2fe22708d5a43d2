# SPDX-License-Identifier: Apache-2.0
"""Volumes and ejection fraction of bodies whose formula is known, of the results of an inference."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.geometry import Geometry
from bundle.tasks import Masks
from bundle.vocabulary import Organs
from scripts.ejection_fraction import main

SHAPE = (240, 200)
SPACING = (0.5, 0.5)
ORGANS = Organs({"indis": {}, "cardiac": {"structures": ["lv", "la"]}})
TRUE = {"ed": (90.0, 25.0, 21.0), "es": (78.0, 17.0, 15.0)}  # length and radius in each view, mm


def apical(length: float, radius: float) -> np.ndarray:
    """Half of an ellipse with its apex above."""
    rows, columns = np.indices(SHAPE)
    along, across = (rows - 20) * SPACING[0], (columns - 100) * SPACING[1]
    return (along >= 0) & (along <= length) & (((length - along) / length) ** 2 + (across / radius) ** 2 <= 1)


def volume(length: float, one: float, other: float) -> float:
    return 2 / 3 * math.pi * length * one * other / 1000


def write_results(folder: Path, masks: dict[str, np.ndarray], *, known: bool = True) -> Path:
    """What inference writes, of given masks; ``clip.avi 3`` is a frame."""
    task = Masks(organs=ORGANS)
    place = Geometry(SHAPE, 224, SPACING, "user") if known else Geometry(SHAPE, 224)
    images: list[dict[str, Any]] = []
    for name, mask in masks.items():
        file, _, frame = name.partition(" ")
        label_map = mask.astype(np.uint8)
        label_map[-5:, :20] = 2  # an atrium
        Image.fromarray(label_map).save(folder / f"{name}_mask.png")
        spacing = {"row": 0.5, "column": 0.5, "source": "user"} if known else dict.fromkeys(("row", "column", "source"))
        record = task.measures.record(label_map, task.structures, place)
        one = {"file": file, "frame": int(frame) if frame else None, "error": "", "spacing_mm": spacing, **record}
        images.append({**one, "mask": f"{name}_mask.png"})
    images.append({"file": "broken.png", "frame": None, "error": "cut", "mask": None})
    (folder / "predictions.json").write_text(json.dumps({**task.legend(), "images": images}))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    views = {f"{phase}{n}.png": apical(true[0], true[n]) for phase, true in TRUE.items() for n in (1, 2)}
    return write_results(tmp_path, views)


def test_two_views_give_volumes_and_ejection_fraction(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--structure", "lv", "--four", "ed1.png", "es1.png", "--two", "ed2.png", "es2.png"]
    assert main([str(results), *options]) == 0
    found = json.loads((results / "ejection_fraction.json").read_text())
    true = {phase: volume(*values) for phase, values in TRUE.items()}
    for phase, name in (("ed", "end-diastolic"), ("es", "end-systolic")):
        assert found[name]["volume_ml"] == pytest.approx(true[phase], rel=0.01)
        assert found[name]["long_axes_mm"] == pytest.approx([TRUE[phase][0]] * 2, abs=0.6)
        assert found[name]["spacing_source"] == ["user", "user"]
    percent = 100 * (true["ed"] - true["es"]) / true["ed"]
    assert found["ejection_fraction_percent"] == pytest.approx(percent, abs=0.5)
    assert (found["method"], found["notes"]) == ("biplane disks", [])
    assert f"ejection fraction: {found['ejection_fraction_percent']:.1f} % (biplane disks)" in capsys.readouterr().out
    with Image.open(io.BytesIO((results / "ejection_fraction.png").read_bytes())) as picture:
        assert min(picture.size) > 300
    assert main([str(results), *options]) == 0  # its own files are replaced


def test_a_clip_tells_its_phases_by_the_area(tmp_path: Path) -> None:
    radii = [22.0, 25.0, 20.0, 17.0, 19.0]
    frames = {f"a4c.avi {2 * i}": apical(90.0, radius) for i, radius in enumerate(radii)}
    write_results(tmp_path, {**frames, "a4c.avi 10": np.zeros(SHAPE, bool)})
    assert main([str(tmp_path), "--structure", "lv", "--four", "a4c.avi"]) == 0
    found = json.loads((tmp_path / "ejection_fraction.json").read_text())
    assert found["end-diastolic"]["images"] == ["a4c.avi frame 2"]
    assert found["end-systolic"]["images"] == ["a4c.avi frame 6"]
    assert found["ejection_fraction_percent"] == pytest.approx(100 * (1 - 17**2 / 25**2), abs=0.6)


def test_masks_of_ones_own_count_whatever_was_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, {f"a4c.avi {i}": np.zeros(SHAPE, bool) for i in range(4)})
    for number, mask in enumerate((apical(80.0, 17.0), apical(90.0, 25.0), apical(3.0, 2.0), apical(85.0, 20.0))):
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"a4c.avi {number}_mask.png")
    assert main([str(tmp_path), "--structure", "lv", "--four", "a4c.avi"]) == 0
    found = json.loads((tmp_path / "ejection_fraction.json").read_text())
    assert found["end-diastolic"]["images"] == ["a4c.avi frame 1"]
    assert found["end-systolic"]["images"] == ["a4c.avi frame 0"]
    assert "note: a4c.avi: 1 frames with less than a tenth of the largest area are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((240, 200, 3), np.uint8), "ed1.png_mask.png: one channel of structure values expected, got 3"),
        (apical(90, 25).astype(np.uint8) * 255, r"ed1.png_mask.png: value 1 for the structure expected, got [255]"),
        (apical(90, 25)[::2, ::2].astype(np.uint8), "200 x 240 pixels as the image has expected, got 100 x 120 pixels"),
    ],
)
def test_masks_that_are_none_are_named(
    results: Path, pixels: np.ndarray, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((results / "predictions.json").read_text())
    for one in told["images"][:4]:
        one["overlay"] = f"{one['file']}_overlay.png"
        Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(results / one["overlay"])
    (results / "predictions.json").write_text(json.dumps(told))
    Image.fromarray(pixels).save(results / "ed1.png_mask.png")
    assert main([str(results), "--structure", "lv", "--four", "ed1.png", "es1.png"]) == 2
    assert reason in capsys.readouterr().err


def test_a_foreshortened_view_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"ed1.png": apical(90, 25), "es1.png": apical(80, 18), "ed2.png": apical(75, 25), "es2.png": apical(78, 18)}
    write_results(tmp_path, masks)
    options = ["--structure", "lv", "--four", "ed1.png", "es1.png", "--two", "ed2.png", "es2.png"]
    assert main([str(tmp_path), *options]) == 0
    assert "note: end-diastolic: the long axes differ by more than 10%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--structure", "rv", "--four", "ed1.png", "es1.png"], "structure 'rv' expected, got lv, la"),
        (["--structure", "lv", "--four", "ed1.png", "no.png"], "image no.png expected"),
        (["--structure", "lv", "--four", "ed1.png", "broken.png"], "in two images, or in two frames"),
        (["--structure", "lv", "--four", "ed1.png"], "got 1 of ed1.png"),
        (["--structure", "lv", "--four", "ed1.png", "ed1.png"], "got ed1.png twice"),
        (["--structure", "lv", "--four", "es1.png", "ed1.png"], "end-diastolic volume must be the larger one"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(
    results: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(results), *options]) == 2
    assert reason in capsys.readouterr().err
    assert not (results / "ejection_fraction.json").exists()


def test_nothing_is_told_without_a_spacing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, {"ed1.png": apical(90, 25), "es1.png": apical(80, 18)}, known=False)
    assert main([str(tmp_path), "--structure", "lv", "--four", "ed1.png", "es1.png"]) == 2
    assert "spacing expected, got none, so that nothing is in mm; infer with --spacing" in capsys.readouterr().err


def test_files_of_others_are_not_replaced(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "ejection_fraction.json").write_text("mine")
    assert main([str(results), "--structure", "lv", "--four", "ed1.png", "es1.png"]) == 2
    assert (results / "ejection_fraction.json").read_text() == "mine"
