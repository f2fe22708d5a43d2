# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.data.duplicates import fingerprint
from bundle.data.examine import examine

GREY = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
ENTRY = {"mask_values": {"0": "background", "255": "lesion"}}
PICTURES = {
    "grey.png": Image.fromarray(GREY),
    "rgb.png": Image.fromarray(np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)),
    "bits.png": Image.fromarray(GREY > 128),
    "deep.png": Image.fromarray(GREY.astype(np.uint16) * 37 + 500),
    "palette.png": Image.fromarray(GREY).convert("RGB").quantize(40),
    "alpha.png": Image.fromarray(GREY).convert("LA"),
    "floats.tif": Image.fromarray(GREY.astype(np.float32) * 3.5 - 20),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_fingerprint_is_the_files(tmp_path: Path, name: str) -> None:
    PICTURES[name].save(tmp_path / name)
    seen = examine(({"image": str(tmp_path / name), "dataset": "S"}, {}))
    mark = fingerprint(tmp_path / name)
    assert seen.mark is not None
    assert np.array_equal(seen.mark.hashes, mark.hashes)
    assert np.array_equal(seen.mark.thumbnail, mark.thumbnail)


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (np.zeros((40, 60), np.uint8), ""),
        (np.full((40, 60), 255, np.uint8), ""),
        (np.full((40, 60), 255, np.uint16), ""),
        (np.ones((40, 60), bool), ""),
        (np.full((80, 120), 255, np.uint8), ""),
        (np.full((40, 60), 7, np.uint8), "got [7]"),
        (np.full((40, 60), 256, np.uint16), "got [256]"),
        (np.full((60, 40), 255, np.uint8), "40x60 (rows x columns), got 60x40"),
        (np.stack([GREY, GREY, 255 - GREY], -1), "got colors"),
    ],
)
def test_masks_are_read_as_training_reads_them(tmp_path: Path, mask: np.ndarray, fault: str) -> None:
    PICTURES["grey.png"].save(tmp_path / "i.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    item = {"image": str(tmp_path / "i.png"), "label": str(tmp_path / "m.png"), "dataset": "S"}
    seen = examine((item, ENTRY))
    assert fault in seen.fault
    assert (seen.mark is None) == bool(fault)
    assert seen.scaled == (mask.shape[:2] == (80, 120))


@pytest.mark.parametrize(
    ("values", "offered"), [([0, 3, 90, 250], True), ([0, 255, 7, 0], True), ([0, 1, 0, 1], False)]
)
def test_a_threshold_is_offered_where_it_would_keep_something(tmp_path: Path, values: list[int], offered: bool) -> None:
    for name, pixels in {"i.png": [0] * 4, "m.png": values}.items():
        Image.fromarray(np.array([pixels], np.uint8)).save(tmp_path / name)
    item = {"image": str(tmp_path / "i.png"), "label": [str(tmp_path / "m.png")], "dataset": "S"}
    fault = examine((item, ENTRY)).fault
    assert "mask values must be in the table" in fault
    assert ("add --mask-threshold S=128" in fault) == offered
    assert examine((item, ENTRY | {"mask_threshold": 128})).fault == ""
