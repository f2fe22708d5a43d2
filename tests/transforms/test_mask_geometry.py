# SPDX-License-Identifier: Apache-2.0
"""Masks whose files say how they lie: they are turned to their image, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.transforms.made_files import save
from tests.transforms.test_loading_masks import load_mask

# 3 rows, 5 columns, no symmetry: any swap or flip changes it
TRUTH = np.array([[0, 1, 1, 0, 2], [0, 1, 0, 0, 0], [0, 0, 0, 3, 0]], np.uint8)
FLAT = np.diag([-0.2, -0.2, 1, 1])
OBLIQUE = np.array([[0, -0.5, 0, 10], [0.25, 0, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]], float)


def nifti(path: Path, pixels: np.ndarray, affine: np.ndarray | None) -> Path:
    nibabel.save(nibabel.Nifti1Image(pixels.T[..., None].copy(), affine), path)
    return path


def metaimage(path: Path, pixels: np.ndarray, affine: np.ndarray | None) -> Path:
    """The same geometry in a header that runs left and posterior."""
    height, width = pixels.shape
    text = f"NDims = 3\nDimSize = {width} {height} 1\nElementType = MET_UCHAR\n"
    if affine is not None:
        lps = np.diag([-1, -1, 1, 1]) @ affine
        sizes = np.linalg.norm(lps[:3, :3], axis=0)
        for name, values in {
            "TransformMatrix": (lps[:3, :3] / sizes).T.ravel(),
            "Offset": lps[:3, 3],
            "ElementSpacing": sizes,
        }.items():
            text += f"{name} = {' '.join(f'{value:.9g}' for value in values)}\n"
    path.write_bytes(f"{text}ElementDataFile = LOCAL\n".encode() + pixels.astype(np.uint8).tobytes())
    return path


def nrrd(path: Path, pixels: np.ndarray, affine: np.ndarray | None) -> Path:
    writer = pytest.importorskip("nrrd", reason="pynrrd is optional")
    header: dict[str, Any] = {}
    if affine is not None:
        header = {"space": "RAS", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    writer.write(str(path), pixels.T[..., None].copy(), header)
    return path


def turned(pixels: np.ndarray, affine: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """The same picture in the same place, stored along other axes."""
    affine = affine.copy()
    for axis, (name, count) in enumerate(zip("xy", pixels.shape[::-1], strict=True)):
        if name in how:
            pixels = np.flip(pixels, 1 - axis)
            affine[:, 3] += affine[:, axis] * (count - 1)
            affine[:, axis] *= -1
    return (pixels.T, affine[:, [1, 0, 2, 3]]) if "t" in how else (pixels, affine)


@pytest.mark.parametrize("how", ["", "x", "y", "xy", "t", "xt", "yt", "xyt"])
@pytest.mark.parametrize("affine", [FLAT, OBLIQUE], ids=["flat", "oblique"])
@pytest.mark.parametrize(("write", "suffix"), [(nifti, ".nii.gz"), (metaimage, ".mha"), (nrrd, ".nrrd")])
def test_a_mask_is_turned_to_its_image(
    tmp_path: Path, write: Callable[..., Path], suffix: str, affine: np.ndarray, how: str
) -> None:
    image = nifti(tmp_path / "image.nii.gz", TRUTH * 9, affine)
    mask = write(tmp_path / f"mask{suffix}", *turned(TRUTH, affine, how))
    assert np.array_equal(load_mask(image, mask)[0].numpy(), TRUTH)


def test_directions_count_where_an_origin_is_not_told(tmp_path: Path) -> None:
    image = nifti(tmp_path / "image.nii", TRUTH, FLAT)
    mask = nifti(tmp_path / "mask.nii", TRUTH[:, ::-1], np.diag([0.2, -0.2, 1, 1]))
    assert np.array_equal(load_mask(image, mask)[0].numpy(), TRUTH)


def moved(affine: np.ndarray, by: float) -> np.ndarray:
    """That many pixels further along x."""
    affine = affine.copy()
    affine[:, 3] += affine[:, 0] * by
    return affine


ANGLE = np.deg2rad(5)
TURN = np.eye(4)
TURN[:2, :2] = [[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]]
REFUSED = {
    "spacing": (OBLIQUE @ np.diag([1.5, 1, 1, 1]), r"expected pixels of 0\.25 x 0\.5 mm, got 0\.375 x 0\.5"),
    "rotation": (TURN @ OBLIQUE, r"expected axes along \[0\.00 1\.00 0\.00\] and \[-1\.00 0\.00 0\.00\], got"),
    "origin": (moved(OBLIQUE, 1.2), r"expected the first pixel at \[10 -20 30\] mm, got \[10 -19\.7 30\]"),
    "mirrored elsewhere": (moved(turned(TRUTH, OBLIQUE, "x")[1], 0.7), "expected the first pixel at"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(("write", "suffix"), [(nifti, ".nii.gz"), (metaimage, ".mha")])
def test_a_mask_that_lies_elsewhere_is_refused(
    tmp_path: Path, write: Callable[..., Path], suffix: str, name: str
) -> None:
    affine, message = REFUSED[name]
    image = nifti(tmp_path / "image.nii.gz", TRUTH, OBLIQUE)
    mask = write(tmp_path / f"mask{suffix}", TRUTH, affine)
    match = rf"mask{suffix}: mask must lie on its image .*image\.nii\.gz, {message}.*; resample it to its image"
    with pytest.raises(ValueError, match=match):
        load_mask(image, mask)


@pytest.mark.parametrize("affine", [moved(OBLIQUE, 0.9), OBLIQUE @ np.diag([1.005, 1, 1, 1])])
def test_what_rounding_does_is_no_contradiction(tmp_path: Path, affine: np.ndarray) -> None:
    image = nifti(tmp_path / "image.nii", TRUTH, OBLIQUE)
    assert np.array_equal(load_mask(image, nifti(tmp_path / "mask.nii", TRUTH, affine))[0].numpy(), TRUTH)


@pytest.mark.parametrize("affine", [None, np.eye(4), np.diag([-1.0, -1, 1, 1])], ids=["none", "identity", "picture"])
def test_a_file_without_a_geometry_is_taken_as_it_is(tmp_path: Path, affine: np.ndarray | None) -> None:
    image, other = nifti(tmp_path / "image.nii", TRUTH, OBLIQUE), nifti(tmp_path / "other.nii", TRUTH, affine)
    assert np.array_equal(load_mask(image, other)[0].numpy(), TRUTH)
    assert np.array_equal(load_mask(image, metaimage(tmp_path / "m.mha", TRUTH, None))[0].numpy(), TRUTH)
    assert np.array_equal(load_mask(image, save(tmp_path / "m.png", TRUTH))[0].numpy(), TRUTH)
    mask = nifti(tmp_path / "mask.nii", TRUTH, OBLIQUE)
    for unplaced in (other, save(tmp_path / "image.png", TRUTH)):
        assert np.array_equal(load_mask(unplaced, mask)[0].numpy(), TRUTH)


def test_of_a_file_that_tells_sizes_only_these_count(tmp_path: Path) -> None:
    header = b"NDims = 2\nDimSize = 5 3\nElementType = MET_UCHAR\nElementSpacing = %s\nElementDataFile = LOCAL\n"
    image = nifti(tmp_path / "image.nii", TRUTH, np.diag([0.2, 0.2, 1, 1]))
    mask = tmp_path / "mask.mha"
    mask.write_bytes(header % b"0.2 0.2" + TRUTH.tobytes())
    assert np.array_equal(load_mask(image, mask)[0].numpy(), TRUTH)
    mask.write_bytes(header % b"0.3 0.3" + TRUTH.tobytes())
    with pytest.raises(ValueError, match=r"mask\.mha: .*expected pixels of 0\.2 x 0\.2 mm, got 0\.3 x 0\.3"):
        load_mask(image, mask)


def test_a_scaled_mask_covers_its_image(tmp_path: Path) -> None:
    pixels = np.kron(TRUTH, np.ones((2, 2), np.uint8))
    fine = OBLIQUE @ np.diag([0.5, 0.5, 1, 1])
    fine[:, 3] = OBLIQUE @ [-0.25, -0.25, 0, 1]
    image = nifti(tmp_path / "image.nii", TRUTH, OBLIQUE)
    mask = nifti(tmp_path / "mask.nii", *turned(pixels, fine, "x"))
    assert np.array_equal(load_mask(image, mask, mask_scaled=True)[0].numpy(), TRUTH)
    with pytest.raises(ValueError, match=r"mask\.nii: mask must have the size of its image"):
        load_mask(image, mask)


def test_units_are_no_contradiction(tmp_path: Path) -> None:
    """Affines are in the file's own unit: a label in mm of a study in microns lies on it."""
    image = nifti(tmp_path / "image.nii", TRUTH, np.diag([-200.0, -200, 1000, 1]))
    mask = nifti(tmp_path / "mask.nii", *turned(TRUTH, FLAT, "y"))
    assert np.array_equal(load_mask(image, mask)[0].numpy(), TRUTH)
