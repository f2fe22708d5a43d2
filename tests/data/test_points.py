# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.data.points import AXES, add_axes, add_points, axis_ends, read_points


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
            "image,point,row,column\na.png,tip,3,\n",
            r"p\.csv, line 2: row and column must be two numbers, or both empty",
        ),
        ("image,point,row,column\na.png,tip,x,1\n", r"line 2: row and column must be two numbers"),
        ("image,point,row,column\na.png,tip,nan,1\n", r"line 2: row and column must be two numbers"),
        ("image,point,row,column\na.png,tip,1,1\na.png,tip,2,2\n", r"line 3: each point of an image must have a name"),
        (
            "image,point,row,column\na.png,,1,1\n",
            r"line 2: each point of an image must have a name and one line, got ''",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_points(write(tmp_path / "p.csv", text))


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
