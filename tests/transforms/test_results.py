# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from bundle.transforms import LoadUltrasoundd, ToStudyd

# 3 rows, 5 columns, no symmetry: any swap or flip changes it
MASK = np.array([[0, 1, 1, 0, 2], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.uint8)


def test_probabilities_are_passed_over() -> None:
    item = {"pred": MetaTensor(torch.rand(3, 3, 5)), "position": "unknown"}
    study = ToStudyd()(item)
    assert study["pred"] is item["pred"]
    assert study.keys() == item.keys()


def save(path: Path, *, orientation: int = 1) -> Path:
    """An image of 3 x 5 pixels; one with a third axis and an oblique geometry where the format has them."""
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    if path.name.endswith(".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(pixels.T[..., None].copy(), AFFINE), path)
    elif path.suffix == ".nii":
        nibabel.save(nibabel.Nifti1Image(pixels.T.copy(), AFFINE), path)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
    return path


AFFINE = np.array([[0, -0.5, 0, 10], [0.25, 0, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]], float)
PIXELS = np.diag([-1.0, -1, 1, 1])  # of a picture: to the left and posterior
STUDIES: dict[str, tuple[tuple[int, ...], np.ndarray]] = {
    "a.png": ((5, 3), PIXELS),
    "a.nii": ((5, 3, 1), AFFINE),  # of two axes: MONAI Label would lose its geometry
    "a.nii.gz": ((5, 3, 1), AFFINE),
}


def to_study(path: Path, **item: Any) -> dict[str, Any]:
    loaded = LoadUltrasoundd("image")({"image": str(path)})["image"]
    pred = MetaTensor(torch.from_numpy(MASK)[None].clone())
    return ToStudyd()({"image": loaded, "pred": pred, "image_path": str(path), **item})


@pytest.mark.parametrize("name", STUDIES)
def test_the_label_map_takes_the_axes_and_the_place_of_the_study(tmp_path: Path, name: str) -> None:
    shape, affine = STUDIES[name]
    item = to_study(save(tmp_path / name))
    pred = item["pred"]
    assert pred.shape == shape
    assert pred.dtype == torch.uint8
    assert pred.is_contiguous()
    assert np.array_equal(pred.numpy().reshape(5, 3), MASK.T)
    assert np.allclose(pred.affine.numpy(), affine)
    assert tuple(item["image"].meta["spatial_shape"]) == shape
    assert "result_extension" not in item


@pytest.mark.parametrize(("name", "suffix", "shape"), [("a.png", ".nrrd", (5, 3, 1)), ("a.nii.gz", ".png", (5, 3))])
def test_a_volume_has_three_axes_and_a_picture_two(
    tmp_path: Path, name: str, suffix: str, shape: tuple[int, ...]
) -> None:
    item = to_study(save(tmp_path / name), result_extension=suffix)
    assert tuple(item["image"].meta["spatial_shape"]) == item["pred"].shape == shape
    assert np.allclose(item["pred"].affine.numpy(), STUDIES[name][1])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_a_jpeg_study_gets_a_lossless_result(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}")
    assert to_study(path)["result_extension"] == ".png"
    assert to_study(path, result_extension=None)["result_extension"] == ".png"
    assert to_study(path, result_extension=".nii.gz")["result_extension"] == ".nii.gz"


def test_a_turned_study_is_refused_where_a_client_shows_it_unturned(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", orientation=6)
    with pytest.raises(
        ValueError,
        match=r"a\.jpg: image must be stored upright, got one with a JPEG orientation mark.*; save it turned",
    ):
        to_study(path)
    loaded = LoadUltrasoundd("image")({"image": str(path)})["image"]
    assert loaded.shape == (3, 5, 3)
    item = ToStudyd()({"image": loaded, "pred": MetaTensor(torch.from_numpy(MASK.T.copy())[None])})
    assert np.array_equal(item["pred"].numpy(), MASK)  # of the turned image


def test_a_turned_study_keeps_its_probabilities(tmp_path: Path) -> None:
    probabilities = MetaTensor(torch.rand(3, 5, 3))
    assert to_study(save(tmp_path / "a.jpg", orientation=6), pred=probabilities)["pred"] is probabilities


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_mark_that_turns_nothing_is_no_turn(tmp_path: Path, orientation: int) -> None:
    """Cameras and scanners also write 0 for unknown."""
    assert to_study(save(tmp_path / "a.jpg", orientation=orientation))["pred"].shape == (5, 3)
