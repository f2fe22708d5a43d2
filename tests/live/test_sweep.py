# SPDX-License-Identifier: Apache-2.0
"""A click is carried through a sweep of slices, and their areas make the volume of a body of known size."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bundle.live.sweep import overlap
from bundle.tables import read_table
from scripts.sweep_volume import main

SHAPE, MIDDLE = (160, 200), (75, 90)
SPACING, DISTANCE, RADIUS = 0.2, 1.0, 6.0
HEIGHTS = np.arange(-9.0, 10.0, DISTANCE)


def inside(height: float) -> np.ndarray:
    """Where a slice shows the ball."""
    rows, columns = np.indices(SHAPE)
    depth, width = (rows - MIDDLE[0]) * SPACING, (columns - MIDDLE[1]) * SPACING
    return depth**2 + width**2 + height**2 <= RADIUS**2


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dark ball in layered speckle, a slice a file, whose names sort by number alone."""
    folder, rng = tmp_path_factory.mktemp("sweep"), np.random.default_rng(0)
    layers = 4 * np.sin(2 * np.pi * np.indices(SHAPE)[0] / 37)
    for number, height in enumerate(HEIGHTS):
        wave = [ndimage.gaussian_filter(rng.normal(size=SHAPE), (0.9, 1.6)) for _ in range(2)]
        speckle = np.hypot(*wave)
        edge = ndimage.gaussian_filter(inside(height).astype(float), 2)
        decibels = 20 * np.log10(speckle / speckle.mean() + 1e-3) - 8 + layers - 14 * edge
        pixels = (255 * np.clip((decibels + 45) / 50, 0, 1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"slice{number}.png")
    return folder


def run(slices: Path, out: Path, *options: str, spacing: bool = True) -> int:
    command = [str(slices), "--structure", "lesion", "--slice_distance", str(DISTANCE), "--position", "breast"]
    command += ["--spacing", str(SPACING)] if spacing else []
    return main([*command, "--output_dir", str(out), *options])


CLICK = ["--click", "9", str(MIDDLE[1]), str(MIDDLE[0])]


def test_one_click_finds_the_ball_in_the_slices_that_show_it(slices: Path, tmp_path: Path) -> None:
    assert run(slices, tmp_path, *CLICK) == 0
    found = json.loads((tmp_path / "volume.json").read_text())
    rows = read_table(tmp_path / "slices.csv")
    assert found["volume_ml"] == pytest.approx(sum(float(row["mm2"]) for row in rows) * DISTANCE / 1000, abs=1e-4)
    assert 4 / 3 * math.pi * RADIUS**3 / 1000 == pytest.approx(0.905, abs=0.001)
    assert found["volume_ml"] == pytest.approx(1.08, abs=0.08)  # as docs/measures.md says
    for number in range(5, 14):  # 4 mm from the middle, at most
        with Image.open(tmp_path / f"slice{number}_mask.png") as mask:
            assert overlap(np.asarray(mask) == 1, inside(HEIGHTS[number])) > 0.7
    assert (found["spacing_source"], found["clicks"]) == ("user", {"9": [[90.0, 75.0]]})
    with Image.open(tmp_path / "sweep.png") as picture:
        assert min(picture.size) > 400


def test_bounds_hold_and_take_the_masks_of_an_earlier_run_away(slices: Path, tmp_path: Path) -> None:
    assert run(slices, tmp_path, *CLICK) == 0
    assert run(slices, tmp_path, *CLICK, "--first", "8", "--last", "10") == 0
    assert [row["slice"] for row in read_table(tmp_path / "slices.csv")] == ["8", "9", "10"]
    assert sorted(path.name for path in tmp_path.glob("*_mask.png")) == [f"slice{n}_mask.png" for n in (10, 8, 9)]


def test_what_is_cut_by_the_bounds_is_noted(slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(slices, tmp_path, *CLICK, "--first", "8") == 0
    said = capsys.readouterr().out
    assert "note: it reaches the first slice that was looked at: the volume is of what is seen" in said
    assert "last slice that" not in said


def test_earlier_results_beside_the_slices_are_no_slices(slices: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(slices, own)
    assert run(own, own, *CLICK) == 0
    first = json.loads((own / "volume.json").read_text())
    assert run(own, own, *CLICK) == 0
    assert run(own, tmp_path / "other", *CLICK) == 0
    assert json.loads((own / "volume.json").read_text()) == first
    assert json.loads((tmp_path / "other/volume.json").read_text()) == first


def test_two_sweeps_are_not_one(slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "AB":
        shutil.copytree(slices, tmp_path / "both" / name)
    assert run(tmp_path / "both", tmp_path / "out", *CLICK) == 2
    assert "one sweep expected, got 2, such as" in capsys.readouterr().err


def test_slices_between_two_clicks_belong_to_the_nearer_one(slices: Path, tmp_path: Path) -> None:
    assert run(slices, tmp_path, *CLICK, "--click", "6", "90", "75") == 0
    numbers = [int(row["slice"]) for row in read_table(tmp_path / "slices.csv")]
    assert numbers == sorted(set(numbers))
    assert {6, 7, 8, 9} <= set(numbers)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--click", "40", "90", "75"], "clicked slices must be from 0 to 18, got 40"),
        (["--click", "4.7", "90", "75"], "click must be a whole slice and a place, got 4.7 90 75"),
        (["--click", "nan", "90", "75"], "click must be a whole slice and a place, got nan 90 75"),
        ([*CLICK, "--first", "-4"], "first and last slice must be from 0 to 18 and in order, got -4 and 18"),
        ([*CLICK, "--last", "40"], "first and last slice must be from 0 to 18 and in order, got 0 and 40"),
        ([*CLICK, "--last", "4"], "clicked slices must be from 0 to 4, got 9"),
        ([*CLICK, "--structure", "liver"], "structure must be one of"),
        ([*CLICK, "--slice_distance", "0"], "slice_distance must be above 0 mm, got 0"),
        ([*CLICK, "--slice_distance", "nan"], "slice_distance must be above 0 mm, got nan"),
    ],
)
def test_what_cannot_be_is_refused(
    slices: Path, tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(slices, tmp_path, *options) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_volume_without_a_spacing(slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(slices, tmp_path, *CLICK, "--first", "9", "--last", "9", spacing=False) == 2
    assert "slice9: spacing expected, got none, so that nothing is in mL; give --spacing" in capsys.readouterr().err


def test_files_of_others_and_the_slices_stay(slices: Path, tmp_path: Path) -> None:
    (tmp_path / "volume.json").write_text("mine")
    assert run(slices, tmp_path, *CLICK) == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_one_image_is_no_sweep(slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(slices / "slice9.png", tmp_path, *CLICK) == 2
    assert "a sweep of two slices or more expected, got 1" in capsys.readouterr().err
