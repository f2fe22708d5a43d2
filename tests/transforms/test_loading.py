# SPDX-License-Identifier: Apache-2.0
import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from bundle.transforms.loading import LoadMaskd, LoadUltrasoundd
from bundle.transforms.readers import MAX_PIXELS

# 3 rows, 5 columns, no symmetry: any swap or flip changes it
GREY = np.array([[0, 10, 20, 30, 40], [50, 60, 70, 80, 90], [100, 110, 120, 130, 255]], np.uint8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def load(path: Path, **item: Any) -> MetaTensor:
    return LoadUltrasoundd("image")({"image": str(path), **item})["image"]


def load_mask(image: Path, *masks: Path, **item: Any) -> MetaTensor:
    data = LoadUltrasoundd("image")({"image": str(image), "label": [str(m) for m in masks], **item})
    return LoadMaskd("label", num_structures=5)(data)["label"]


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def save_nifti(path: Path, stored: np.ndarray, zooms: tuple[float, ...] = (), unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(stored, np.eye(4))
    if zooms:
        image.header.set_zooms(zooms)
        image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def save_dicom(path: Path, pixels: np.ndarray, *, photometric: str = "MONOCHROME2", **tags: Any) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.Rows, ds.Columns = pixels.shape[:2]
    bits = pixels.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    ds.PhotometricInterpretation, ds.SamplesPerPixel = photometric, 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = pixels.tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    ds.save_as(str(path))
    return path


def region(delta_x: float, delta_y: float, unit: int = 3) -> Dataset:
    r = Dataset()
    r.PhysicalDeltaX, r.PhysicalDeltaY, r.PhysicalUnitsXDirection, r.PhysicalUnitsYDirection = (
        delta_x,
        delta_y,
        unit,
        unit,
    )
    return r


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


def geometry(path: Path) -> tuple[np.ndarray, bool]:
    image = load(path)
    return image.meta["study_affine"].numpy(), image.meta["turned"]


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
    """MONAI Label writes such headers of pictures and DICOM, with mm as unit."""
    spacing = load(save_nifti(tmp_path / "a.nii.gz", GREY.T[..., None].copy(), zooms=(*zooms, 1.0), unit=unit))
    assert np.isfinite(spacing.meta["spacing"]).all() == known
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


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({"PixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01)]}, (0.1, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01), region(5.0, 5.0, unit=4)]}, (0.1, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01)] * 2}, (0.1, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01), region(0.03, 0.03)]}, None),
        ({}, None),
    ],
)
def test_dicom_spacing(tmp_path: Path, tags: dict[str, Any], spacing: tuple[float, float] | None) -> None:
    found = load(save_dicom(tmp_path / "a.dcm", GREY, **tags)).meta["spacing"]
    assert found == pytest.approx(spacing) if spacing else np.isnan(found).all()


def test_dicom_grey_levels(tmp_path: Path) -> None:
    inverted = load(save_dicom(tmp_path / "a.dcm", GREY, photometric="MONOCHROME1"))
    torch.testing.assert_close(inverted[0].as_tensor(), torch.from_numpy(1 - GREY / np.float32(255)))
    deep = load(save_dicom(tmp_path / "b.dcm", GREY.astype(np.uint16) * 3, BitsStored=10, HighBit=9))
    torch.testing.assert_close(deep[0].as_tensor(), torch.from_numpy(GREY * np.float32(3) / 1023))
    # PS3.3 C.11.2.1.2: values up to center - 0.5 - (width - 1) / 2 = 50 are black, from center - 0.5 + ... = 150 white
    windowed = load(save_dicom(tmp_path / "c.dcm", GREY, WindowCenter=100.5, WindowWidth=101))
    expected = np.clip((GREY.astype(np.float32) - 50) / 100, 0, 1)
    torch.testing.assert_close(windowed[0].as_tensor(), torch.from_numpy(expected))


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": 0},
        {"RescaleSlope": 3, "RescaleIntercept": None},
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": None, "WindowWidth": None},
    ],
)
def test_dicom_entries_that_say_nothing_change_nothing(tmp_path: Path, tags: dict[str, Any]) -> None:
    image = load(save_dicom(tmp_path / "a.dcm", GREY, **tags))
    torch.testing.assert_close(image[0].as_tensor(), torch.from_numpy(GREY / np.float32(255)))


def test_dicom_palette_in_either_byte(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16)
    for shift in (0, 8):
        tags: dict[str, Any] = {}
        for color, table in (("Red", ramp), ("Green", 255 - ramp), ("Blue", ramp // 2)):
            tags[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            tags[f"{color}PaletteColorLookupTableData"] = (table << shift).astype("<u2").tobytes()
        image = load(save_dicom(tmp_path / f"{shift}.dcm", GREY, photometric="PALETTE COLOR", **tags))
        assert torch.equal(image.as_tensor(), torch.from_numpy(RGB / np.float32(255)).permute(2, 0, 1))


DICOM = {
    "itkpocus_sonoque_anechoic-3mm-3mm": ((3, 1455, 2083), 0.0291),
    "itkpocus_sonoque_axial-lateral-resolution-2020": ((3, 1455, 2083), 0.0291),
    "pydicom_examples_jpeg2k": ((3, 480, 640), None),
    "pydicom_examples_palette": ((3, 350, 800), 0.26228787661969977),
    "pydicom_examples_rgb_color": ((3, 240, 320), None),
    "pydicomdata_JPGLosslessP14SV1_1s_1f_8b": ((3, 768, 1024), 0.25476696592378156),
    "pydicomdata_OBXXXX1A": ((3, 600, 800), 0.26228787661969977),
    "pydicomdata_OBXXXX1A_expb": ((3, 600, 800), 0.26228787661969977),
    "pydicomdata_OBXXXX1A_rle": ((3, 600, 800), 0.26228787661969977),
    "pydicomdata_US1_J2KI": ((3, 480, 640), None),
    "pydicomdata_US1_UNCI": ((3, 480, 640), None),
    "pydicomdata_US1_UNCR": ((3, 480, 640), None),
    "pydicomdata_color-pl": ((3, 120, 256), None),
    "pydicomdata_color-px": ((3, 120, 256), None),
    "pydicomdata_gdcm-US-ALOKA-16_big": ((3, 480, 640), 0.3826530650258064),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DICOM)
def test_real_dicom(real_data: Path, name: str) -> None:
    shape, spacing = DICOM[name]
    image = load(real_data / "dicom" / f"{name}.dcm")
    assert image.shape == shape
    assert 0 <= image.min() < 0.1
    assert 0.9 < image.max() <= 1
    assert image.mean() < 0.25  # ultrasound is dark: neither inverted nor raw YBR
    assert image.meta["spacing"][0] == pytest.approx(spacing) if spacing else np.isnan(image.meta["spacing"]).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pydicomdata_OBXXXX1A", "pydicomdata_OBXXXX1A_expb"),  # big endian
        ("pydicomdata_OBXXXX1A", "pydicomdata_OBXXXX1A_rle"),
        ("pydicomdata_US1_UNCI", "pydicomdata_US1_J2KI"),
        ("pydicomdata_US1_UNCR", "pydicom_examples_jpeg2k"),
        ("pydicomdata_color-pl", "pydicomdata_color-px"),  # color by plane, color by pixel
    ],
)
def test_one_dicom_image_in_two_encodings_is_the_same(real_data: Path, one: str, other: str) -> None:
    first, second = (load(real_data / "dicom" / f"{name}.dcm").as_tensor() for name in (one, other))
    torch.testing.assert_close(first, second, rtol=0, atol=2 / 255)


@pytest.mark.filterwarnings("ignore")
def test_multi_frame_dicom_is_refused(real_data: Path) -> None:
    with pytest.raises(
        ValueError, match=r"ybr_color\.dcm: DICOM file must be single-frame, got 30 frames; save the one"
    ):
        load(real_data / "dicom" / "pydicom_examples_ybr_color.dcm")


def test_ybr_dicom_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    image = load(save_dicom(tmp_path / "a.dcm", ybr, photometric="YBR_FULL"))
    expected = torch.from_numpy(RGB / np.float32(255)).permute(2, 0, 1)
    torch.testing.assert_close(image.as_tensor(), expected, rtol=0, atol=3 / 255)


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


MASK = np.zeros((3, 5), np.uint8)
MASK[0, 1:4] = 255


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "image.png", GREY)


def test_masks_are_mapped_and_merged(tmp_path: Path, image: Path) -> None:
    other = np.zeros((3, 5), np.uint8)
    other[2, 4] = 255
    paths = [save(tmp_path / "m.png", MASK), save(tmp_path / "m_1.png", other)]
    mask = load_mask(image, *paths, mask_values={0: 0, 255: 2})
    assert mask.dtype == torch.uint8
    assert mask.tolist() == [[[0, 2, 2, 2, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 2]]]
    assert mask.meta["spatial_shape"] == (3, 5)


def test_equal_masks_of_every_format(tmp_path: Path, image: Path) -> None:
    indices = MASK // 255 * 3
    palette = Image.fromarray(indices)
    palette.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 200, 10, 30])
    palette.save(tmp_path / "p.png")
    paths = [
        tmp_path / "p.png",
        save(tmp_path / "l.png", indices),
        save(tmp_path / "rgb.png", np.stack([indices] * 3, -1)),
        save(tmp_path / "rgba.png", np.stack([indices] * 3 + [np.full_like(indices, 255)], -1)),
        save(tmp_path / "deep.png", indices.astype(np.uint16)),
        save_nifti(tmp_path / "m.nii.gz", indices.T.copy()[..., None]),
        save_nifti(tmp_path / "f.nii.gz", indices.T.astype(np.float32)),
        save_dicom(tmp_path / "m.dcm", indices),
    ]
    for path in paths:
        assert np.array_equal(load_mask(image, path)[0].numpy(), indices), path


@pytest.mark.parametrize(("table", "index"), [({0: 0, 255: 4}, 4), ({0: 0, 1: 2}, 2), ({}, 1)])
def test_one_bit_white_is_255_or_1(tmp_path: Path, image: Path, table: dict[int, int], index: int) -> None:
    path = save(tmp_path / "m.png", MASK > 0)
    assert load_mask(image, path, mask_values=table).max() == index


def test_no_mask_is_background_and_a_single_path_is_taken(tmp_path: Path, image: Path) -> None:
    assert load_mask(image).tolist() == [[[0] * 5] * 3]
    transform = LoadMaskd("label", num_structures=2)
    assert transform({"image": str(image), "label": ""})["label"].shape == (1, 3, 5)
    single = transform({"image": str(image), "label": str(save(tmp_path / "m.png", MASK // 255))})
    assert single["label"].sum() == 3


def test_outline_is_filled(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:60, :80]
    radius = ((rows - 25) / 20) ** 2 + ((columns - 45) / 30) ** 2
    disk, ring = radius <= 1, (radius <= 1) & (radius > 0.9)
    cut = slice(30, None)  # the image border cuts the ring open
    for name, part in (("whole", slice(None)), ("cut", cut)):
        image = save(tmp_path / f"{name}.png", np.zeros_like(disk[part], np.uint8))
        outline = save(tmp_path / f"{name}_outline.png", ring[part].astype(np.uint8) * 255)
        mask = load_mask(image, outline, mask_values={0: 0, 255: 2}, mask_kind="outline")
        assert np.array_equal(mask[0].numpy() == 2, disk[part]), name


VALUES = {"mask_values": {0: 0, 255: 1}}
BAD_MASKS: list[tuple[np.ndarray, dict[str, Any], str]] = [
    (MASK, {"mask_values": {0: 0, 1: 1}}, r"m\.png: mask values must be in the table \{0: 0, 1: 1\}.*got \[255\]"),
    (MASK, {}, r"m\.png: mask values must be in the table .*got \[255\]"),
    (MASK.T.copy(), VALUES, r"m\.png: mask must have the size of its image .*image\.png, 3x5.*got 5x3"),
    (MASK.T.copy(), VALUES | {"mask_scaled": True}, r"m\.png: mask must have the size .* 3x5.*got 5x3"),
    (RGB, {}, r"m\.png: mask must hold one value a pixel, got colors"),
    (MASK, {"mask_values": {255: 7}, "item": "item 3"}, r"item 3: mask_values must map to .* 0 to 4, got \{255: 7\}"),
]


def test_scaled_mask_is_resampled_on_request(tmp_path: Path, image: Path) -> None:
    double = save(tmp_path / "m.png", MASK.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(load_mask(image, double, **VALUES, mask_scaled=True)[0].numpy(), MASK // 255)
    with pytest.raises(ValueError, match=r"m\.png: mask must have the size of its image .*got 6x10"):
        load_mask(image, double, **VALUES)


@pytest.mark.parametrize(("stored", "item", "message"), BAD_MASKS)
def test_bad_masks_are_named(
    tmp_path: Path, image: Path, stored: np.ndarray, item: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_mask(image, save(tmp_path / "m.png", stored), **item)


def test_fractions_in_masks_are_refused(tmp_path: Path, image: Path) -> None:
    path = save_nifti(tmp_path / "m.nii", np.full((5, 3), 0.5, np.float32))
    with pytest.raises(ValueError, match=r"m\.nii: mask values must be integers, got fractions"):
        load_mask(image, path)


def test_pixels_are_read_whatever_the_suffix(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, format="PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert load(tmp_path / "a.jpg").shape == (3, 3, 5)


def test_a_threshold_makes_blurred_masks_one_structure(tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    Image.fromarray(np.zeros((1, 4), np.uint8)).save(image)
    Image.fromarray(np.array([[3, 127, 128, 250]], np.uint8)).save(tmp_path / "m.png")
    item = {"image": str(image), "label": str(tmp_path / "m.png"), "mask_values": {0: 0, 255: 2}, "mask_threshold": 128}
    assert LoadMaskd(num_structures=3)(item)["label"].tolist() == [[[0, 0, 2, 2]]]
