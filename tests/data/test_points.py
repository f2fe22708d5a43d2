# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.data.datalist import load_split
from bundle.data.points import AXES, add_axes, add_points, axis_ends, read_points
from bundle.tasks import Points
from bundle.vocabulary import Organs


def ellipse(center: tuple[float, float], axes: tuple[float, float], angle: float) -> np.ndarray:
    rows, columns = np.mgrid[0:200, 0:300]
    down, right = rows - center[0], columns - center[1]
    along = down * math.cos(angle) + right * math.sin(angle)
    across = right * math.cos(angle) - down * math.sin(angle)
    return ((along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1).astype(np.uint8)


@pytest.mark.parametrize("angle", [0.0, 0.7, 1.3])
def test_axis_ends_of_an_ellipse(angle: float) -> None:
    ends = axis_ends(ellipse((100, 140), (70, 45), angle))
    step = np.array([math.cos(angle), math.sin(angle)]) * 70
    expected = {tuple(np.round(np.array([100, 140]) + side * step, 1)) for side in (-1, 1)}
    found = {tuple(np.round(np.array(ends[name]), 1)) for name in AXES[:2]}
    for place in expected:
        assert min(math.dist(place, other) for other in found) < 0.5
    short = math.dist(*(ends[name] for name in AXES[2:]))  # type: ignore[arg-type]
    assert short == pytest.approx(90, abs=0.5)


def test_a_cut_or_empty_mask_has_none() -> None:
    assert axis_ends(np.zeros((20, 20))) == {}
    assert axis_ends(ellipse((5, 140), (70, 45), 0.0)) == {}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_points_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        Image.new("L", (8, 4)).save(tmp_path / name)
    table = write(tmp_path / "p.csv", "image,point,row,column\na.png,tip,3,4.5\na.png,base,,\nsub/b.png,tip,0,0\n")
    found = read_points(table)
    assert found == {
        str((tmp_path / "a.png").resolve()): {"tip": [3.0, 4.5], "base": None},
        str((tmp_path / "sub/b.png").resolve()): {"tip": [0.0, 0.0]},
    }
    items: list[dict[str, Any]] = [
        {"image": "a.png"},
        {"image": "sub/b.png", "points": {"mark": None}},
        {"image": "c.png"},
    ]
    add_points(items, found, root=str(tmp_path), path=table)
    assert items[0]["points"] == {"tip": [3.0, 4.5], "base": None}
    assert items[1]["points"] == {"mark": None, "tip": [0.0, 0.0]}
    assert "points" not in items[2]
    with pytest.raises(ValueError, match=r"p\.csv: images must be in the manifest, got 1 that are not, .*b\.png"):
        add_points(items[:1], found, root=str(tmp_path), path=table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,point,row\na.png,tip,3\n",
            r"columns must be image, point, row, column, got \['image', 'point', 'row'\]",
        ),
        (
            "image,point,row,column\na.png,tip,3,,\n",
            r"p\.csv, line 2: 4 cells expected, as in the first line, got 5",
        ),
        ("image,point,row,column\na.png,tip,3,1,4,5\n", r"line 2: 4 cells expected, as in the first line, got 6"),
        ("image,point,row,column\n", r"p\.csv: expected lines of points below the first one, got none"),
        ("image,point,row,column\na.png,tip\n", r"line 2: 4 cells expected, as in the first line, got 2"),
        ("image,point,row,column,row\na.png,tip,1,1,2\n", r"columns must be image, point, row, column, got"),
        ("image,point,row,column\n\n,tip,1,1\n", r"line 3: the path of an image expected, got ''"),
        ("image,point,row,column\na.png, tip,1,1\n", r"line 2: each point .* without blanks around it.* got ' tip'"),
        ("image,point,row,column\na.png,$import os,1,1\n", r"line 2: each point .* \$ @ % at its start, got '\$import"),
        ("image,point,row,column\na.png,ti\x7fp,1,1\n", r"line 2: each point .* control characters"),
        (
            "image,point,row,column\na.png,tip,3,\n",
            r"p\.csv, line 2: row and column must be two numbers, or both empty",
        ),
        ("image,point,row,column\na.png,tip,x,1\n", r"line 2: row and column must be two numbers"),
        ("image,point,row,column\na.png,tip,nan,1\n", r"line 2: row and column must be two numbers"),
        (
            "image,point,row,column\na.png,tip,1,1\na.png,tip,2,2\n",
            r"line 3: each point of an image must have one line",
        ),
        (
            "image,point,row,column\na.png,,1,1\n",
            r"line 2: each point of an image must have a name, .*got ''",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_points(write(tmp_path / "p.csv", text))


def test_a_nul_is_refused(tmp_path: Path) -> None:
    for text in ("a.png,t\0p,1,1", "a\0.png,tip,1,1"):
        with pytest.raises(ValueError, match=r"p\.csv"):
            read_points(write(tmp_path / "p.csv", f"image,point,row,column\n{text}\n"))


@pytest.mark.parametrize("place", ["-1,2", "1,-1", "4,2", "1,8", "3.6,0"])
def test_a_point_outside_its_image_is_refused(tmp_path: Path, place: str) -> None:
    Image.new("L", (8, 4)).save(tmp_path / "a.png")
    table = write(tmp_path / "p.csv", f"image,point,row,column\na.png,base,-0.5,7.5\na.png,tip,{place}\n")
    message = r"p\.csv: point 'tip' of .*a\.png: a row from 0 to 3 and a column from 0 to 7 expected, got row"
    with pytest.raises(ValueError, match=message):
        add_points([{"image": "a.png"}], read_points(table), root=str(tmp_path), path=table)


def test_axes_of_the_masks_of_a_structure(tmp_path: Path) -> None:
    mask = ellipse((100, 140), (70, 45), 0.7) * 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "empty.png")
    Image.fromarray(mask).save(tmp_path / "a.png")
    manifest = {
        "datasets": {"H": {"mask_values": {"0": "background", "255": "head"}}, "C": {"classes": ["x", "y"]}},
        "items": [
            {"image": "a.png", "label": "m.png", "dataset": "H"},
            {"image": "a.png", "label": ["empty.png"], "dataset": "H"},
            {"image": "a.png", "dataset": "C"},
        ],
    }
    assert add_axes(manifest, "head", root=str(tmp_path)) == 1
    assert set(manifest["items"][0]["points"]) == set(AXES)  # type: ignore[index]
    with pytest.raises(
        ValueError, match=r"--axes must name a structure of the masks \['background', 'head'\], got 'x'"
    ):
        add_axes(manifest, "x", root=str(tmp_path))


def test_points_that_no_task_declares_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = {"tip": [1, 2], "base": None, "tpi": [1, 2], "apex": None}
    items = [
        {"image": f"{n}.png", "dataset": "A", "patient": f"A/{n}", "group": f"A/{n}", "split": split, "points": points}
        for n, split in enumerate(("train", "train", "val"))
    ]
    split = {"leaks": [], "leaks_accepted": False}
    sets = {"A": {"position": "head", "nature": "organ"}}
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"version": 1, "root": ".", "datasets": sets, "split": split, "items": items}))
    organs = Organs({"head": {"structures": ["head"]}, "indis": {}})
    tasks = [Points(organs, {"head": ["tip"]}), Points(organs, {"head": ["base"]}, name="others")]
    for name in ("train", "val"):
        load_split(path, split=name, organs=organs, tasks=tasks)
    (line,) = caplog.messages
    assert "nothing learns apex, tpi, which items have as points: no task of the config declares these names" in line
