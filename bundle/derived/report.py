# SPDX-License-Identifier: Apache-2.0
"""DICOM structured report of measurements: TID 1500."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.utils import optional_import
from pydicom.sr.codedict import codes
from pydicom.uid import UltrasoundMultiFrameImageStorage

from bundle import __version__
from bundle.codes import (
    ABSENT,
    AREA,
    ARTIFICIAL_INTELLIGENCE,
    FINDING_SITE,
    HEAD_CODES,
    IMPRESSION,
    LENGTH_CODES,
    MEASUREMENT_REPORT,
    MM,
    MM2,
    NO_UNIT,
    PRIVATE,
    PRIVATE_NAME,
    PROBABILITY,
    ULTRASONOGRAPHY,
    WEEKS,
    Code,
    category_of,
    code_of,
)
from bundle.derived.case import ALGORITHM, MAKER, Case, Shot, dicom_code, highdicom
from bundle.derived.outlines import outlines
from bundle.vocabulary import NO_ORGAN

CodingSchemeIdentificationItem, _ = optional_import("highdicom.coding_schemes", name="CodingSchemeIdentificationItem")


def report(case: Case) -> bytes | None:
    """A Comprehensive SR with the template TID 1500 (PS3.16) of what was found; None where nothing was.

    A group for each structure and frame (TID 1410): the outline of its largest part, its area, lengths where the
    spacing is known, and the probability of its presence. A group (TID 1501) for the biometry of a fetal head, for
    each class, for the organ, and for each structure that is absent. Numbers are those of ``predictions.json``.
    """
    groups = [group for shot in case.shots for group in _groups(case, shot)]
    if not groups:
        return None
    sr = highdicom.sr
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID.from_uuid(_uuid(case.weights)),
        name=ALGORITHM,
        manufacturer_name=MAKER,
        model_name=ALGORITHM,
        serial_number=case.weights[:16],
    )
    context = sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=dicom_code(ULTRASONOGRAPHY),
        imaging_measurements=groups,
        title=dicom_code(MEASUREMENT_REPORT),
        referenced_images=[case.source],  # the image library, by which viewers find the source
    )
    made = sr.ComprehensiveSR(
        evidence=[case.source],
        content=content[0],
        is_complete=True,
        coding_schemes=[CodingSchemeIdentificationItem(PRIVATE, name=PRIVATE_NAME)],
        **case.heading("SR"),
        **case.device,
    )
    return case.finished(made)


def _uuid(weights: str) -> str:
    return "-".join(weights[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def _groups(case: Case, shot: Shot) -> Iterator[Any]:
    """The measurement groups of an image or a frame."""
    presence = shot.result.get("presence", {})
    for index, name in enumerate(case.structures[1:], start=1):
        probability = presence.get(name)
        if found := outlines(shot.mask == index):
            yield _structure(case, shot, name, found[0], probability)
        elif probability is not None:
            yield _answer(case, shot, name, code_of(name), ABSENT, probability)
    if (head := _fetal_head(case, shot)) is not None:
        yield head
    for label_set, classes in shot.result.get("classes", {}).items():
        best = classes["predicted"]
        yield _answer(case, shot, label_set, IMPRESSION, code_of(best), classes["probabilities"][best])
    organ = shot.result.get("organ", {})
    if (best := organ.get("predicted")) not in (None, NO_ORGAN):
        yield _answer(case, shot, "organ", FINDING_SITE, code_of(best), organ["probabilities"][best])


def _structure(case: Case, shot: Shot, name: str, outline: Any, probability: float | None) -> Any:
    """A structure with its outline and what was measured (TID 1410)."""
    sr = highdicom.sr
    region = sr.ImageRegion("POLYLINE", outline, sr.SourceImageForRegion(**_reference(case, shot)))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region,
        finding_type=dicom_code(code_of(name)),
        finding_category=dicom_code(category_of(name)),
        measurements=[
            sr.Measurement(dicom_code(what), value, dicom_code(unit))
            for what, value, unit in _measured(shot.result, name, probability)
        ],
        **_common(case, name),
    )


def _measured(result: Mapping[str, Any], name: str, probability: float | None) -> Iterator[tuple[Code, float, Code]]:
    """What was measured of a structure: concept, value and unit."""
    if (area := result["areas"][name]["mm2"]) is not None:
        yield AREA, area, MM2
    lengths = result["measures"][name]
    for key, code in LENGTH_CODES.items():
        if (value := lengths[f"{key}_mm"]) is not None:
            yield code, value, MM
    if probability is not None:
        yield PROBABILITY, probability, NO_UNIT


def _fetal_head(case: Case, shot: Shot) -> Any | None:
    """The biometry of a fetal head; None where there is none."""
    record = shot.result.get("fetal_head", {})
    measured = [
        (code, record[key], WEEKS if key.endswith("weeks") else MM)
        for key, code in HEAD_CODES.items()
        if record.get(key) is not None
    ]
    return _of_image(case, shot, "fetal_head", measured) if measured else None


def _answer(case: Case, shot: Shot, name: str, concept: Code, value: Code, probability: float) -> Any:
    """One answer on the whole image, and its probability."""
    said = highdicom.sr.QualitativeEvaluation(dicom_code(concept), dicom_code(value))
    return _of_image(case, shot, name, [(PROBABILITY, probability, NO_UNIT)], said)


def _of_image(case: Case, shot: Shot, name: str, measured: Sequence[tuple[Code, float, Code]], *said: Any) -> Any:
    """Numbers and answers of a whole image or frame (TID 1501).

    Numbers name the region that they are from, which is all of the image: OHIF 3.13 shows nothing of a report with a
    group that has no region.
    """
    sr, (height, width) = highdicom.sr, shot.mask.shape
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height), (0, 0)], np.float32)
    region = sr.CoordinatesForMeasurement("POLYLINE", corners, sr.SourceImageForRegion(**_reference(case, shot)))
    return sr.MeasurementsAndQualitativeEvaluations(
        measurements=[
            sr.Measurement(dicom_code(what), value, dicom_code(unit), referenced_coordinates=[region])
            for what, value, unit in measured
        ],
        qualitative_evaluations=said,
        source_images=[sr.SourceImageForMeasurementGroup(**_reference(case, shot))],
        **_common(case, name),
    )


def _common(case: Case, name: str) -> dict[str, Any]:
    """What every group says: whose it is and what computed it."""
    sr = highdicom.sr
    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=case.tracking(name), identifier=name),
        "algorithm_id": sr.AlgorithmIdentification(
            name=ALGORITHM,
            version=__version__,
            parameters=[f"weights_sha256={case.weights}"],
            family=dicom_code(ARTIFICIAL_INTELLIGENCE),
        ),
    }


def _reference(case: Case, shot: Shot) -> dict[str, Any]:
    return {
        "referenced_sop_class_uid": case.source.SOPClassUID if shot.frame is None else UltrasoundMultiFrameImageStorage,
        "referenced_sop_instance_uid": case.source.SOPInstanceUID,
        "referenced_frame_numbers": None if shot.frame is None else [shot.frame + 1],
    }
