# SPDX-License-Identifier: Apache-2.0
"""DICOM Segmentation: a bit for each pixel, structure and frame."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.tag import Tag

from bundle import __version__
from bundle.codes import ARTIFICIAL_INTELLIGENCE, category_of, code_of
from bundle.derived.case import ALGORITHM, Case, Shot, dicom_code, highdicom
from bundle.palette import color


def segmentation(case: Case) -> bytes | None:
    """A Segmentation object (PS3.3 A.51) of the structures found; None where there are none.

    Segments are numbered from 1, in the order of the structures, without those that were not found; their labels are
    the structures' names. highdicom makes it of one frame; those of a clip are added to it. The spacing is that of the
    source: highdicom does not read Pixel Measures that lack a slice thickness, which ultrasound has not.
    """
    seen = np.zeros(256, bool)
    for shot in case.shots:
        seen[np.unique(shot.mask)] = True
    found = [index for index in range(1, len(case.structures)) if seen[index]]
    if not found:
        return None
    segments = np.zeros(256, np.uint8)
    segments[found] = np.arange(1, len(found) + 1)
    first = next(shot for shot in case.shots if shot.mask.any())
    made = highdicom.seg.Segmentation(
        source_images=[case.source],
        pixel_array=segments[first.mask],
        segmentation_type="BINARY",
        segment_descriptions=[_described(case, index, number) for number, index in enumerate(found, start=1)],
        content_label="SEGMENTATION",
        content_description="Structures that a network outlined",
        **case.heading("SEG"),
        **case.device,
    )
    if first.frame is not None:
        _add_frames(made, case.shots, segments, len(found))
    made.PatientOrientation = None
    return case.finished(made)


def _described(case: Case, index: int, number: int) -> Dataset:
    name = case.structures[index]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=ALGORITHM,
        family=dicom_code(ARTIFICIAL_INTELLIGENCE),
        version=__version__,
        parameters={"weights_sha256": case.weights},
    )
    description: Dataset = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=dicom_code(category_of(name)),
        segmented_property_type=dicom_code(code_of(name)),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=case.tracking(name),
        tracking_id=name,
        display_color=highdicom.color.CIELabColor.from_rgb(*color(index)),
    )
    return description


def _add_frames(made: Dataset, shots: Sequence[Shot], segments: np.ndarray, count: int) -> None:
    """Puts the frames of a clip in place of the one frame: those in which a segment is, segment after segment.

    highdicom 0.28 refuses several frames without a coordinate system. Dimensions are the segment and the place in time
    (PS3.3 C.7.6.17); each frame names that of the source (Derivation Image, C.7.6.16.2.6).
    """
    pattern = Dataset()
    for part in (made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence[0]):
        pattern.update(part)
    made.SharedFunctionalGroupsSequence = [Dataset()]
    groups, planes = [], []
    for number in range(1, count + 1):
        for time, shot in enumerate(shots, start=1):
            plane = segments[shot.mask] == number
            if not plane.any() or shot.frame is None:
                continue
            group = copy.deepcopy(pattern)
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = shot.frame + 1
            group.FrameContentSequence[0].DimensionIndexValues = [number, time]
            group.FrameContentSequence[0].TemporalPositionIndex = time
            groups.append(group)
            planes.append(plane)
    index = Dataset()
    index.DimensionOrganizationUID = made.DimensionIndexSequence[0].DimensionOrganizationUID
    index.DimensionIndexPointer = Tag("TemporalPositionIndex")
    index.FunctionalGroupPointer = Tag("FrameContentSequence")
    index.DimensionDescriptionLabel = "Temporal Position Index"
    made.DimensionIndexSequence.append(index)
    made.PerFrameFunctionalGroupsSequence = groups
    made.NumberOfFrames = len(groups)
    made.PixelData = pack_bits(np.stack(planes).astype(np.uint8), pad=True)
