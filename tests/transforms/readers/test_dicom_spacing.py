# SPDX-License-Identifier: Apache-2.0
"""PixelSpacing and regions of an image (40, 52) that say the same, differ, or speak for a part of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from bundle.tasks import Records
from bundle.transforms import LoadUltrasoundd
from bundle.transforms.readers import read_file
from tests.transforms.readers.made_dicom import RAMP, region, save

ROOT = Path(__file__).resolve().parents[3]
WHOLE, HALF, LEFT, SMALL = (0, 39, 0, 51), (0, 39, 26, 51), (0, 39, 0, 19), (0, 10, 0, 10)
CONFLICT = "PixelSpacing says 0.3 x 0.3 mm and the image's region 0.2 x 0.1 mm, which is taken"
PART = "a small part of the image is calibrated, and only what lies there is measured in mm: 0.2 x 0.1 mm in "
DIFFERENT = (
    "regions of the image have different scales, and only what lies in one of them is measured in mm: 0.2 x 0.1 mm in"
    " rows 0 to 39, columns 0 to 19; 0.2 x 0.2 mm in rows 0 to 39, columns 26 to 51"
)
NONE = "PixelSpacing of 1 x 1 mm is what is written when it is not known, and is left out"


@pytest.mark.parametrize(
    ("given", "regions", "spacing", "note"),
    [
        ([1, 1], [region(0.01, 0.02, place=WHOLE)], (0.2, 0.1), NONE),
        ([1, 1], [], None, NONE),
        ([0.3, 0.3], [region(0.01, 0.02, place=WHOLE)], (0.2, 0.1), CONFLICT),
        ([0.3, 0.3], [region(0.01, 0.02)], (0.2, 0.1), CONFLICT),
        ([0.2, 0.1], [region(0.01, 0.02, place=WHOLE)], (0.2, 0.1), ""),
        ([0.2, 0.1], [region(0.01, 0.02, place=SMALL)], (0.2, 0.1), ""),
        ([0.3, 0.3], [region(0.01, 0.02, place=SMALL)], None, PART + "rows 0 to 10, columns 0 to 10"),
        ([0.3, 0.3], [region(0.01, 0.02, place=LEFT), region(0.02, 0.02, place=HALF)], None, DIFFERENT),
        ([0.3, 0.3], [region(5.0, 5.0, unit_x=4, place=SMALL)], (0.3, 0.3), ""),
        (None, [region(0.01, 0.02, place=HALF)], (0.2, 0.1), ""),
        (None, [region(0.01, 0.02, place=SMALL)], None, PART + "rows 0 to 10, columns 0 to 10"),
        (None, [region(0.01, 0.02, place=LEFT)], None, PART + "rows 0 to 39, columns 0 to 19"),
        (None, [region(0.01, 0.02, place=LEFT), region(0.01, 0.02, place=(0, 39, 32, 51))], (0.2, 0.1), ""),
        (None, [region(0.01, 0.02, place=(0, 0, 0, 0))], (0.2, 0.1), ""),
        (None, [region(1e-300, 1e-300)], None, "a spacing of 1e-299 x 1e-299 mm cannot be right and is left out"),
        (None, [region(1e-300, 0.01)], None, "a spacing of 0.1 x 1e-299 mm cannot be right and is left out"),
        ([300, 300], [], None, "a spacing of 300 x 300 mm cannot be right and is left out"),
    ],
)
def test_the_scale_of_what_the_image_shows_is_taken(
    tmp_path: Path, given: Any, regions: list[Any], spacing: tuple[float, float] | None, note: str
) -> None:
    path = save(tmp_path / "a.dcm", RAMP, PixelSpacing=given, SequenceOfUltrasoundRegions=regions or None)
    raw = read_file(str(path))
    assert raw.spacing == pytest.approx(spacing) if spacing else np.isnan(raw.spacing).all()
    assert "; ".join(raw.notes) == note
    assert np.array_equal(read_file(str(path), as_mask=True).spacing, raw.spacing, equal_nan=True)


@pytest.mark.parametrize("colors", [False, True])
def test_a_small_region_speaks_for_an_image_that_shows_little_else(tmp_path: Path, colors: bool) -> None:
    """A narrow sector on an empty screen."""
    pixels = np.zeros((100, 200), np.uint8)
    pixels[20:80, 60:100] = 90
    pixels[2:6, 150:190] = 200  # text
    pixels = np.repeat(pixels[..., None], 3, axis=2) if colors else pixels
    regions = [region(0.01, 0.01, place=(20, 79, 60, 99))]
    raw = read_file(str(save(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=regions)))
    assert raw.spacing == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("given", "regions", "source"),
    [
        ([0.2, 0.1], [], "PixelSpacing"),
        ([0.2, 0.1], [region(0.01, 0.02, place=WHOLE)], "PixelSpacing"),
        ([0.3, 0.3], [region(0.01, 0.02, place=WHOLE)], "SequenceOfUltrasoundRegions"),
        (None, [region(0.01, 0.02, place=WHOLE)], "SequenceOfUltrasoundRegions"),
        (None, [], ""),
    ],
)
def test_the_attribute_that_tells_is_named(tmp_path: Path, given: Any, regions: list[Any], source: str) -> None:
    path = save(tmp_path / "a.dcm", RAMP, PixelSpacing=given, SequenceOfUltrasoundRegions=regions or None)
    assert LoadUltrasoundd()({"image": str(path)})["image"].meta["spacing_source"] == source


@pytest.mark.parametrize("frames", [1, 2])
def test_regions_of_different_scales_reach_the_measures(tmp_path: Path, weights: Path, frames: int) -> None:
    """From the file to the table, of an image and of a clip's frame."""
    pixels = np.full((frames, 40, 52), 90, np.uint8) if frames > 1 else np.full((40, 52), 90, np.uint8)
    regions = [region(0.01, 0.02, place=LEFT), region(0.02, 0.02, place=HALF)]
    count = {"NumberOfFrames": frames} if frames > 1 else {}
    path = save(tmp_path / "a.dcm", pixels, shape=(40, 52), SequenceOfUltrasoundRegions=regions, **count)
    parser = ConfigParser(ConfigParser.load_config_file(ROOT / "configs/inference.yaml"))
    parser.update(
        {"bundle_root": str(ROOT), "ckpt_path": str(weights), "dataset_dir": str(path), "check_images": False}
    )
    parser.update({"output_dir": str(tmp_path / "out"), "position": "breast"})
    dataset = parser.get_parsed_content("dataset")
    item = next(iter(dataset))
    assert item["error"] == ""
    places = [(zone.place, zone.spacing) for zone in item["image"].meta["zones"]]
    left, right = ((slice(0, 40), slice(0, 20)), (0.2, 0.1)), ((slice(0, 40), slice(26, 52)), (0.2, 0.2))
    assert places == [left, right]
    tasks = parser.get_parsed_content("declared")
    logits = {"seg": torch.zeros(5, 224, 224)}
    logits["seg"][1, 60:100, 30:60] = 9.0  # within the left region
    found = parser.get_parsed_content("postprocessing").transforms[0]({**item, "pred": logits})
    result = Records([task for task in tasks if task.name == "seg"])({**found})["result"]
    assert result["spacing_mm"] == {"row": None, "column": None, "source": "SequenceOfUltrasoundRegions"}
    area = result["areas"]["lesion"]
    assert area["pixels"] > 20
    assert area["mm2"] == pytest.approx(area["pixels"] * 0.02)
