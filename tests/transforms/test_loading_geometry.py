# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from bundle.transforms.loading import LoadUltrasoundd
from tests.transforms.made_files import GREY, RGB, geometry, load, save, save_nifti


def test_nrrd_is_upright_and_calibrated(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is optional")
    header = {"space dimension": 3, "space directions": np.diag([0.2, 0.1, 1.0])}
    nrrd.write(str(tmp_path / "a.nrrd"), GREY.T.copy()[..., None], header)
    image = load(tmp_path / "a.nrrd")
    assert torch.equal(image[0].as_tensor(), torch.from_numpy(GREY / np.float32(255)))
    assert image.meta["spacing"] == (0.1, 0.2)
    nrrd.write(str(tmp_path / "rgb.nrrd"), RGB.transpose(2, 1, 0).copy(), {"kinds": ["RGB-color", "domain", "domain"]})
    assert torch.equal(
        load(tmp_path / "rgb.nrrd").as_tensor(), torch.from_numpy(RGB / np.float32(255)).permute(2, 0, 1)
    )


def test_jpeg_is_turned_by_its_exif_orientation(tmp_path: Path) -> None:
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:8, :8] = 255  # top left; orientation 6 asks for a turn of 90 degrees clockwise: to the top right
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load(save(tmp_path / "a.jpg", pixels, quality=95, exif=exif))
    assert image.shape == (3, 64, 32)
    assert image[0, :6, -6:].min() > 0.9
    assert image[0, 10:].max() < 0.1
    assert image.meta["turned"] is True


PICTURE = np.diag([-1.0, -1, 1, 1])
"""Affine of a picture: its pixels count as mm that run left and posterior."""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_a_picture_lies_where_clients_put_it(tmp_path: Path, suffix: str) -> None:
    affine, turned = geometry(save(tmp_path / f"a{suffix}", GREY))
    assert np.array_equal(affine, PICTURE)
    assert not turned
    tensor = LoadUltrasoundd("image")({"image": torch.rand(3, 4, 6)})["image"]
    assert np.array_equal(tensor.meta["study_affine"], PICTURE)
    assert tensor.meta["turned"] is False


@pytest.mark.parametrize(
    ("orientation", "turned"), [(0, False), (1, False), (9, False), *((n, True) for n in range(2, 9))]
)
def test_only_what_was_turned_is_called_so(tmp_path: Path, orientation: int, turned: bool) -> None:
    """Cameras and scanners also write 0 for unknown, which turns nothing."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in (".jpg", ".png"):
        path = save(tmp_path / f"a{suffix}", GREY, exif=exif)
        affine, found = geometry(path)
        assert found is turned
        assert np.array_equal(affine, PICTURE)
        image = load(path)
        assert image.meta["spatial_shape"] == ((5, 3) if orientation in range(5, 9) else (3, 5))


OBLIQUE = np.array([[0, -0.5, 0, 10], [0.25, 0, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]], float)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 1)])
def test_a_nifti_keeps_its_affine(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(GREY.T.reshape(shape), OBLIQUE), tmp_path / "a.nii.gz")
    affine, turned = geometry(tmp_path / "a.nii.gz")
    assert np.allclose(affine, OBLIQUE)
    assert not turned
    assert load(tmp_path / "a.nii.gz").meta["spacing"] == (0.5, 0.25)


# directions of x and y (rows of the header), in mm; the affine's columns, left and posterior turned round
FLAT = {"space directions": [[0.2, 0.0], [0.0, 0.1]]}
SOLID = {"space directions": [[0.2, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 1.0]], "space origin": [7.0, 8.0, 9.0]}
OBLIQUE_SOLID = {
    "space directions": [[0.0, 0.2, 0.0], [0.1, 0.0, 0.0], [0.0, 0.0, 1.0]],
    "space origin": [7.0, 8.0, 9.0],
}
RGB_FLAT = {
    "kinds": ["RGB-color", "domain", "domain"],
    "space directions": [[float("nan")] * 2, [0.2, 0.0], [0.0, 0.1]],
}
NRRD: dict[str, tuple[dict[str, Any], tuple[int, ...], list[list[float]]]] = {
    "no geometry": ({}, (5, 3), [[-1, 0, 0, 0], [0, -1, 0, 0]]),
    "spacings": ({"spacings": [0.2, 0.1]}, (5, 3), [[-0.2, 0, 0, 0], [0, -0.1, 0, 0]]),
    "colors and spacings": (
        {"kinds": ["RGB-color", "domain", "domain"], "spacings": [float("nan"), 0.2, 0.1]},
        (3, 5, 3),
        [[-0.2, 0, 0, 0], [0, -0.1, 0, 0]],
    ),
    "unnamed flat space": ({"space dimension": 2, **FLAT}, (5, 3), [[-0.2, 0, 0, 0], [0, -0.1, 0, 0]]),
    "colors": ({"space dimension": 2, **RGB_FLAT}, (3, 5, 3), [[-0.2, 0, 0, 0], [0, -0.1, 0, 0]]),
    "unnamed space": ({"space dimension": 3, **SOLID}, (5, 3, 1), [[-0.2, 0, 0, -7], [0, -0.1, 0, -8]]),
    "left": ({"space": "left-posterior-superior", **SOLID}, (5, 3, 1), [[-0.2, 0, 0, -7], [0, -0.1, 0, -8]]),
    "right": ({"space": "right-anterior-superior", **SOLID}, (5, 3, 1), [[0.2, 0, 0, 7], [0, 0.1, 0, 8]]),
    "RAS": ({"space": "RAS", **SOLID}, (5, 3, 1), [[0.2, 0, 0, 7], [0, 0.1, 0, 8]]),
    "turned axes": (
        {"space": "left-posterior-superior", **OBLIQUE_SOLID},
        (5, 3, 1),
        [[0, -0.1, 0, -7], [-0.2, 0, 0, -8]],
    ),
}


@pytest.mark.parametrize("name", NRRD)
def test_nrrd_lies_where_its_header_says(tmp_path: Path, name: str) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is optional")
    header, shape, expected = NRRD[name]
    stored = RGB.transpose(2, 1, 0).copy() if shape == (3, 5, 3) else GREY.T.reshape(shape)
    nrrd.write(str(tmp_path / "a.nrrd"), stored, header)
    affine, turned = geometry(tmp_path / "a.nrrd")
    origin = header.get("space origin", [0, 0, 0])[2]
    assert np.allclose(affine, [*expected, [0, 0, 1, origin], [0, 0, 0, 1]])
    assert not turned
    spacing = load(tmp_path / "a.nrrd").meta["spacing"]
    assert np.isnan(spacing).all() if name == "no geometry" else spacing == pytest.approx((0.1, 0.2))


def test_spacing_comes_from_item_then_file(tmp_path: Path) -> None:
    calibrated = save_nifti(tmp_path / "a.nii", GREY.T.copy(), zooms=(0.2, 0.1))  # x (columns) first
    item = LoadUltrasoundd("image")({"image": str(calibrated), "spacing": [float("nan")] * 2})
    assert item["spacing"] == pytest.approx([0.1, 0.2])
    assert load(calibrated, spacing=[0.5, 0.6]).meta["spacing"] == (0.5, 0.6)
    micron = save_nifti(tmp_path / "b.nii", GREY.T.copy(), zooms=(200.0, 100.0), unit="micron")
    assert load(micron).meta["spacing"] == pytest.approx((0.1, 0.2))
    unknown = [
        save(tmp_path / "a.png", GREY, dpi=(254, 254)),
        save_nifti(tmp_path / "c.nii", GREY.T.copy(), zooms=(1.0, 1.0), unit="unknown"),
    ]
    assert all(np.isnan(load(path).meta["spacing"]).all() for path in unknown)


@pytest.mark.parametrize("unit", ["mm", "unknown", "micron", "meter"])
@pytest.mark.parametrize(
    ("zooms", "known"), [((1.0, 1.0), False), ((0.9999999, 1.0), False), ((1.0, 0.3), True), ((0.999, 0.999), True)]
)
def test_nifti_pixels_of_one_by_one_are_no_spacing(
    tmp_path: Path, unit: str, zooms: tuple[float, float], known: bool
) -> None:
    """MONAI Label writes such headers of pictures and DICOM, with mm as unit; no pixel is a meter or a micron wide."""
    spacing = load(save_nifti(tmp_path / "a.nii.gz", GREY.T[..., None].copy(), zooms=(*zooms, 1.0), unit=unit))
    assert np.isfinite(spacing.meta["spacing"]).all() == (known and unit not in ("meter", "micron"))
    turned = nibabel.Nifti1Image(GREY.T.copy(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    assert np.isnan(load(tmp_path / "turned.nii.gz").meta["spacing"]).all()


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ({"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": [0, 0, 0]}, False),
        ({"space": "left-posterior-superior", "space directions": np.diag([-1, -1, 0.5])}, False),
        ({"spacings": [1, 1, 1]}, False),
        ({"space": "left-posterior-superior", "space directions": np.diag([1, 0.3, 1])}, True),
    ],
)
def test_nrrd_pixels_of_one_by_one_are_no_spacing(tmp_path: Path, header: dict[str, Any], known: bool) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is optional")
    nrrd.write(str(tmp_path / "a.nrrd"), GREY.T[..., None].copy(), header)
    image = load(tmp_path / "a.nrrd")
    assert np.isfinite(image.meta["spacing"]).all() == known
    axes = np.abs(np.diag(image.meta["study_affine"])[:2]).tolist()  # what is written back keeps the header's
    assert axes == pytest.approx([1, 0.3] if known else [1, 1])
