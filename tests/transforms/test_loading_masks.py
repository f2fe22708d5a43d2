# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from bundle.transforms.loading import LoadMaskd, LoadUltrasoundd
from tests.transforms.made_files import GREY, RGB, save, save_nifti
from tests.transforms.readers.made_dicom import save as save_dicom


def load_mask(image: Path, *masks: Path, **item: Any) -> MetaTensor:
    data = LoadUltrasoundd("image")({"image": str(image), "label": [str(m) for m in masks], **item})
    return LoadMaskd("label", num_structures=5)(data)["label"]


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


def test_a_threshold_makes_blurred_masks_one_structure(tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    Image.fromarray(np.zeros((1, 4), np.uint8)).save(image)
    Image.fromarray(np.array([[3, 127, 128, 250]], np.uint8)).save(tmp_path / "m.png")
    item = {"image": str(image), "label": str(tmp_path / "m.png"), "mask_values": {0: 0, 255: 2}, "mask_threshold": 128}
    assert LoadMaskd(num_structures=3)(item)["label"].tolist() == [[[0, 0, 2, 2]]]
