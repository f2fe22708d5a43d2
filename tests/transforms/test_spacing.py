# SPDX-License-Identifier: Apache-2.0
"""A spacing that the user tells, of files that do not."""

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from bundle.transforms import AssumeSpacingd, LoadUltrasoundd, ReadRequestd
from bundle.transforms.spacing import told_spacing

READ = ReadRequestd(["background", "lesion"])


def loaded(path: Path, told: Any = None, **item: Any) -> dict[str, Any]:
    return AssumeSpacingd(spacing=told)(LoadUltrasoundd()({"image": str(path), **item}))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.full((6, 9), 80, np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(("spacing", "told"), [(0.2, (0.2, 0.2)), ([0.2], (0.2, 0.2)), ([0.2, 0.1], (0.2, 0.1))])
def test_a_picture_takes_the_users_spacing(picture: Path, spacing: Any, told: tuple[float, float]) -> None:
    item = loaded(picture, spacing)
    assert tuple(item["spacing"]) == item["image"].meta["spacing"] == told
    assert item["image"].meta["spacing_source"] == "user"


def test_without_one_it_stays_unknown(picture: Path) -> None:
    item = loaded(picture)
    assert all(math.isnan(value) for value in item["spacing"])
    assert item["image"].meta["spacing_source"] == ""


def test_a_file_that_says_keeps_its_own(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.full((9, 6, 1), 80, np.uint8), np.diag([0.3, 0.4, 1, 1]))
    image.header.set_xyzt_units("mm")
    image.to_filename(tmp_path / "a.nii.gz")
    item = loaded(tmp_path / "a.nii.gz", 0.2)
    assert item["spacing"] == pytest.approx([0.4, 0.3])
    assert item["image"].meta["spacing_source"] == "header"


def test_the_data_list_goes_first(picture: Path) -> None:
    item = loaded(picture, 0.2, spacing=[0.5, 0.5])
    assert item["spacing"] == [0.5, 0.5]
    assert item["image"].meta["spacing_source"] == "data list"


@pytest.mark.parametrize("spacing", ["0.2 mm", 0, -1, 1e6, True, [0.1, 0.2, 0.3], [], {}, math.nan, [0.1, "x"]])
def test_what_is_no_spacing_is_refused(spacing: Any) -> None:
    with pytest.raises(ValueError, match=r"spacing must be the mm of a pixel.*correct --spacing"):
        told_spacing(spacing)


@pytest.mark.parametrize(("spacing", "told"), [(0.2, [0.2, 0.2]), ([0.2], [0.2, 0.2]), ([0.2, 0.1], [0.2, 0.1])])
def test_a_request_tells_a_spacing(picture: Path, spacing: Any, told: list[float]) -> None:
    item = LoadUltrasoundd()(READ({"image": str(picture), "spacing": spacing}))
    assert item["spacing"] == told
    assert item["image"].meta["spacing_source"] == "user"


@pytest.mark.parametrize("spacing", ["0.2", [-1, 1e9], 0, [0.2, 0.2, 0.2], True, {"row": 0.2}, [], [[0.2], 0.2]])
def test_a_request_that_tells_no_spacing_is_refused(spacing: Any) -> None:
    with pytest.raises(ValueError, match=r"spacing must be the mm of a pixel, .* got .*; correct spacing\."):
        READ({"image": "a.png", "spacing": spacing})


@pytest.mark.parametrize("spacing", [None, [float("nan"), float("nan")]])
def test_an_unknown_spacing_tells_none(spacing: Any) -> None:
    assert "spacing_source" not in READ({"image": "a.png", "spacing": spacing, "spacing_source": "x"})
