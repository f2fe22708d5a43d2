# SPDX-License-Identifier: Apache-2.0
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from PIL import Image

from bundle.transforms.loading import LoadUltrasoundd
from bundle.transforms.readers import MAX_PIXELS
from tests.transforms.made_files import GREY, RGB, load, save, save_nifti
from tests.transforms.readers.made_dicom import save as save_dicom


def test_every_format_gives_the_same_upright_image(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"a{suffix}", GREY) for suffix in (".png", ".bmp", ".tif")]
    paths.append(save_nifti(tmp_path / "a.nii", GREY.T.copy()))
    paths.append(save_nifti(tmp_path / "b.nii.gz", GREY.T.copy()[..., None]))
    paths.append(save_dicom(tmp_path / "a.dcm", GREY))
    paths.append(save_dicom(tmp_path / "no_suffix", GREY))
    paths.append(save(tmp_path / "rgb.png", np.stack([GREY] * 3, -1)))
    expected = torch.from_numpy(GREY / np.float32(255)).expand(3, 3, 5)
    for path in paths:
        image = load(path)
        assert image.dtype == torch.float32
        assert torch.equal(image.as_tensor(), expected), path
        assert image.meta["spatial_shape"] == (3, 5)
        assert image.meta["filename_or_obj"] == str(path)
        assert torch.equal(image.affine, torch.eye(4, dtype=torch.float64))


def write_mode(path: Path, mode: str) -> Path:
    image = Image.fromarray(RGB)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "tif"), ("LA", "png"), ("1", "png"), ("1", "tif")],
)
def test_color_modes(tmp_path: Path, mode: str, suffix: str) -> None:
    path = write_mode(tmp_path / f"a.{suffix}", mode)
    with Image.open(path) as stored:
        assert stored.mode == mode
        expected = np.asarray(stored.convert("L" if mode in ("LA", "1") else "RGB"))
    expected = np.stack([expected] * 3, -1) if expected.ndim == 2 else expected
    assert torch.equal(load(path).as_tensor(), torch.from_numpy(expected / np.float32(255)).permute(2, 0, 1))


def test_sixteen_bit_is_divided_by_its_maximum_above_255(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 16
    for path in (save(tmp_path / "a.png", deep), save(tmp_path / "a.tif", deep)):
        torch.testing.assert_close(load(path)[0].as_tensor(), torch.from_numpy(deep / np.float32(4080)))
    shallow = GREY.astype(np.uint16) // 2
    assert load(save(tmp_path / "b.png", shallow)).max() == pytest.approx(127 / 255)


@pytest.mark.parametrize(
    ("stored", "low", "high"),
    [
        ([[0.0, 0.25], [0.5, 0.75]], 0.0, 0.75),  # in 0..1: as it is
        ([[0.0, 51.0], [102.0, 204.0]], 0.0, 0.8),  # integers in 0..255: divided by 255
        ([[-60.0, -20.5], [-10.0, 0.0]], 0.0, 1.0),  # decibels: minimum to maximum
        ([[7.5, 7.5], [7.5, 7.5]], 0.0, 0.0),  # constant: black
    ],
)
def test_float_rule(tmp_path: Path, stored: list[list[float]], low: float, high: float) -> None:
    pixels = np.array(stored, np.float32)
    for path in (save(tmp_path / "a.tif", pixels), save_nifti(tmp_path / "a.nii", pixels)):
        image = load(path)
        assert float(image.min()) == pytest.approx(low)
        assert float(image.max()) == pytest.approx(high)


def test_nifti_colors(tmp_path: Path) -> None:
    expected = torch.from_numpy(RGB / np.float32(255)).permute(2, 0, 1)
    upright = np.ascontiguousarray(RGB.swapaxes(0, 1))
    structured = upright.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    vectors = upright[:, :, None, None, :]
    for stored in (structured, structured[..., None], vectors):
        assert torch.equal(load(save_nifti(tmp_path / "a.nii.gz", stored)).as_tensor(), expected)


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
NAMES = {"nifti": ".nii.gz", "dicom": ".dcm"}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "empty": Path.touch,
    "text": lambda path: path.write_text("not an image"),
    "truncated": lambda path: cut(save(path, NOISE)),
    "truncated_nifti": lambda path: cut(save_nifti(path, NOISE)),
    "truncated_dicom": lambda path: cut(save_dicom(path, NOISE)),
    "noise_dicom": lambda path: path.write_bytes(NOISE.tobytes()),
    "volume_nifti": lambda path: save_nifti(path, np.zeros((4, 5, 6), np.uint8)),
    "animated": lambda path: save(path, NOISE, save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "nan_nifti": lambda path: save_nifti(path, np.full((4, 5), np.nan, np.float32)),
    "huge": lambda path: Image.new("1", (10000, 9000)).save(path),
}


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / (kind + NAMES.get(kind.split("_")[-1], ".png"))
    DAMAGE[kind](path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("missing", FileNotFoundError, "file must exist, found none; correct the path"),
        ("folder", IsADirectoryError, "must be an image file, got a folder"),
        ("empty", ValueError, "file must hold an image, got 0 bytes"),
        ("text", OSError, r"must be a readable image of type \.png .*, got an unknown or damaged format"),
        ("truncated", OSError, "cannot be decoded: .*; copy it again or remove it"),
        ("truncated_nifti", OSError, "cannot be decoded: .*; copy it again or remove it"),
        ("truncated_dicom", ValueError, "pixel data"),
        ("noise_dicom", ValueError, "must hold pixel data, got none"),
        ("volume_nifti", ValueError, r"image must be two-dimensional, got shape \(4, 5, 6\); save one slice"),
        ("animated", ValueError, "image must be single-frame, got 2 frames; save the one"),
        ("nan_nifti", ValueError, "pixels must be finite, got NaN"),
        ("huge", ValueError, f"image must have 1 to {MAX_PIXELS} pixels, got 9000x10000; crop or downscale it"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, kind: str, error: type[Exception], message: str) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(error, match=f"{path.name}: .*{message}") as found:
        load(path)
    assert not re.search(r"[.;,?]\s*[.;,]", str(found.value).replace("...", ""))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match=r"a\.png: must be a plain file, got a pipe, a socket or a device; remove it"):
        load(tmp_path / "a.png")


def test_one_pixel_and_a_large_image(tmp_path: Path) -> None:
    assert load(save(tmp_path / "one.png", np.array([[51]], np.uint8))).flatten().tolist() == pytest.approx([0.2] * 3)
    large = tmp_path / "large.png"
    Image.new("1", (8000, 6000), 1).save(large)
    image = load(large)
    assert image.shape == (3, 6000, 8000)
    assert image[:, -1, -1].tolist() == [1, 1, 1]


def test_tensors_only_get_their_meta() -> None:
    image = MetaTensor(torch.rand(3, 4, 6), meta={"filename_or_obj": "x.png"})
    loaded = LoadUltrasoundd("image")({"image": image})["image"]
    assert torch.equal(loaded, image)
    assert loaded.meta["spatial_shape"] == (4, 6)
    assert loaded.meta["filename_or_obj"] == "x.png"


def test_meta_of_different_formats_collates(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "a.png", GREY),
        save_nifti(tmp_path / "a.nii", GREY.T.copy()[..., None]),
        save_dicom(tmp_path / "a.dcm", GREY),
    ]
    batch = list_data_collate([LoadUltrasoundd("image")({"image": str(path)}) for path in paths])
    back = decollate_batch(batch)
    assert [item["image"].meta["filename_or_obj"] for item in back] == [str(path) for path in paths]
    assert [tuple(int(n) for n in item["image"].meta["spatial_shape"]) for item in back] == [(3, 5)] * 3
    assert [tuple(item["image"].meta["study_affine"].shape) for item in back] == [(4, 4)] * 3


def test_pixels_are_read_whatever_the_suffix(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, format="PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert load(tmp_path / "a.jpg").shape == (3, 3, 5)


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("gone.png")
    with pytest.raises(FileNotFoundError, match=r"a\.png: must be an image file, got a broken link to gone\.png; mend"):
        load(tmp_path / "a.png")
