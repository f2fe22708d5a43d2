# SPDX-License-Identifier: Apache-2.0
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage

from bundle.derived import Case, Shot
from bundle.derived.outlines import outlines
from bundle.derived.report import report
from tests.derived.conftest import WEIGHTS, blobs, result

Cases = Callable[..., Case]
Loaded = Callable[[bytes | None], Dataset]


def items(part: Dataset, concept: str) -> list[Dataset]:
    """Content items below a part, in depth, whose concept has a meaning."""

    def walk(node: Dataset) -> Iterator[Dataset]:
        for item in node.get("ContentSequence", ()):
            yield item
            yield from walk(item)

    return [
        one for one in walk(part) if one.get("ConceptNameCodeSequence", [Dataset()])[0].get("CodeMeaning") == concept
    ]


def groups(made: Dataset) -> dict[str, list[Dataset]]:
    """Tracking identifier -> its measurement groups."""
    found: dict[str, list[Dataset]] = {}
    for group in items(made, "Measurement Group"):
        found.setdefault(items(group, "Tracking Identifier")[0].TextValue, []).append(group)
    return found


def numbers(group: Dataset) -> dict[str, tuple[float, str]]:
    """Concept -> value and UCUM unit."""
    values: dict[str, tuple[float, str]] = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0]
            assert unit.CodingSchemeDesignator == "UCUM"
            values[item.ConceptNameCodeSequence[0].CodeMeaning] = (float(measured.NumericValue), unit.CodeValue)
    return values


def said(group: Dataset, concept: str) -> str:
    return str(items(group, concept)[0].ConceptCodeSequence[0].CodeMeaning)


def test_numbers_are_those_of_the_record_with_their_units(case: Cases, loaded: Loaded) -> None:
    found, record = groups(loaded(report(case()))), result(blobs())
    lesion = record["measures"]["lesion"]
    assert numbers(found["lesion"][0]) == {
        "Area": (record["areas"]["lesion"]["mm2"], "mm2"),
        "Long axis": (lesion["long_axis_mm"], "mm"),
        "Short axis": (lesion["short_axis_mm"], "mm"),
        "Circumference": (lesion["circumference_mm"], "mm"),
        "Width": (4.0, "mm"),  # 20 columns of 0.2 mm
        "Height": (10.0, "mm"),
        "Probability": (0.875, "1"),
    }
    assert numbers(found["fetal_head"][0]) == {
        "Head Circumference": (123.4, "mm"),
        "Biparietal Diameter": (33.3, "mm"),
        "Occipital-Frontal Diameter": (44.4, "mm"),
        "Gestational Age": (16.25, "wk"),
    }


def test_answers_on_the_whole_image(case: Cases, loaded: Loaded) -> None:
    found = groups(loaded(report(case())))
    assert sorted(found) == ["breast", "fetal_head", "head", "lesion", "nerve", "organ"]
    assert (said(found["lesion"][0], "Finding"), said(found["lesion"][0], "Finding category")) == (
        "Lesion",
        "Morphologically Abnormal Structure",
    )
    assert said(found["breast"][0], "Differential Diagnosis/Impression") == "Benign"
    assert numbers(found["breast"][0]) == {"Probability": (0.625, "1")}
    assert said(found["organ"][0], "Finding Site") == "Breast"
    assert said(found["nerve"][0], "Nerve") == "Absent"
    assert numbers(found["nerve"][0]) == {"Probability": (0.125, "1")}


def test_the_outline_lies_on_the_source(case: Cases, loaded: Loaded) -> None:
    one = case(keep=True)
    (region,) = items(groups(loaded(report(one)))["lesion"][0], "Image Region")
    assert region.GraphicType == "POLYLINE"
    drawn = np.reshape(region.GraphicData, (-1, 2))
    np.testing.assert_array_equal(drawn, outlines(blobs() == 1)[0].astype(np.float32))
    image = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == "1.2.840.999.1.33333"
    assert image.ReferencedSOPClassUID == UltrasoundImageStorage
    assert "ReferencedFrameNumber" not in image


def test_viewers_find_the_source_and_a_region_in_every_group(case: Cases, loaded: Loaded) -> None:
    made = loaded(report(case(keep=True)))
    (library,) = items(made, "Image Library Group")
    assert library.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.840.999.1.33333"
    for name in ("breast", "fetal_head", "organ", "nerve"):
        number = next(item for item in groups(made)[name][0].ContentSequence if item.ValueType == "NUM")
        assert number.ContentSequence[0].GraphicData == [0, 0, 56, 0, 56, 40, 0, 40, 0, 0]  # all of the image


def test_highdicom_reads_it(case: Cases) -> None:
    content = highdicom.sr.srread(io.BytesIO(report(case()) or b"")).content
    (lesion, head) = content.get_planar_roi_measurement_groups()
    assert (lesion.finding_type.meaning, head.finding_type.meaning) == ("Lesion", "Head")
    assert lesion.get_measurements()[0].value == result(blobs())["areas"]["lesion"]["mm2"]
    assert len(content.get_image_measurement_groups()) == 4


def test_no_millimeters_without_a_spacing(case: Cases, loaded: Loaded) -> None:
    shot = Shot(None, blobs(), result(blobs(), spacing=None))
    found = groups(loaded(report(replace(case(), shots=[shot]))))
    assert numbers(found["lesion"][0]) == {"Probability": (0.875, "1")}


def test_each_frame_has_its_groups_and_one_thing_one_uid(case: Cases, loaded: Loaded) -> None:
    found = groups(loaded(report(case(masks={1: blobs(), 3: np.roll(blobs(), 2, axis=0)}))))
    lesions = found["lesion"]
    frames = [
        items(one, "Image Region")[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber
        for one in lesions
    ]
    assert frames == [2, 4]  # DICOM counts from 1
    assert len({items(one, "Tracking Unique Identifier")[0].UID for one in lesions}) == 1
    assert len(found["breast"]) == 2


def test_a_device_observed_and_the_algorithm_is_named(case: Cases, loaded: Loaded) -> None:
    made = loaded(report(case()))
    assert said(made, "Observer Type") == "Device"
    assert items(made, "Device Observer Name")[0].TextValue == "Ultrasound UPerConvNeXt"
    lesion = groups(made)["lesion"][0]
    assert items(lesion, "Algorithm Parameters")[0].TextValue == f"weights_sha256={WEIGHTS}"
    assert said(lesion, "Algorithm Family") == "Artificial Intelligence"
    assert (made.CompletionFlag, made.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


@pytest.mark.parametrize("record", [{}, {"organ": {"predicted": "none", "probabilities": {"none": 1.0}}}])
def test_nothing_found_is_no_object(case: Cases, record: dict[str, Any]) -> None:
    shot = Shot(None, np.zeros((40, 56), np.uint8), {"spacing_mm": {"row": None, "column": None}, **record})
    assert report(replace(case(), shots=[shot])) is None
