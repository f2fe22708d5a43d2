# SPDX-License-Identifier: Apache-2.0
import io
from collections.abc import Callable

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from bundle import __version__
from bundle.derived import Case
from bundle.derived.segmentation import segmentation
from tests.derived.conftest import WEIGHTS, blobs

Cases = Callable[..., Case]
Loaded = Callable[[bytes | None], Dataset]


def label_maps(made: Dataset) -> dict[int | None, np.ndarray]:
    """Frame of the source, from 0, -> segment numbers (H, W)."""
    maps: dict[int | None, np.ndarray] = {}
    planes = made.pixel_array.reshape(-1, made.Rows, made.Columns)
    for plane, group in zip(planes, made.PerFrameFunctionalGroupsSequence, strict=True):
        everything = Dataset()
        everything.update(made.SharedFunctionalGroupsSequence[0])
        everything.update(group)
        image = everything.DerivationImageSequence[0].SourceImageSequence[0]
        frame = image.get("ReferencedFrameNumber")
        number = everything.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found = maps.setdefault(None if frame is None else int(frame) - 1, np.zeros(plane.shape, np.uint8))
        found[plane > 0] = number
    return maps


def test_an_image_reads_back_equal(case: Cases, loaded: Loaded) -> None:
    made = loaded(segmentation(case()))
    assert np.array_equal(label_maps(made)[None], blobs())
    assert made.SegmentationType == "BINARY"
    assert made.SegmentsOverlap == "NO"
    assert made.SourceImageSequence[0].ReferencedSOPClassUID == UltrasoundImageStorage


def test_segments_say_what_they_are_and_what_made_them(case: Cases, loaded: Loaded) -> None:
    lesion, head = loaded(segmentation(case())).SegmentSequence
    assert [(s.SegmentNumber, s.SegmentLabel) for s in (lesion, head)] == [(1, "lesion"), (2, "head")]
    kind, category = lesion.SegmentedPropertyTypeCodeSequence[0], lesion.SegmentedPropertyCategoryCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("52988006", "SCT", "Lesion")
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("49755003", "SCT")
    assert lesion.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = lesion.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Ultrasound UPerConvNeXt", __version__)
    assert algorithm.AlgorithmParameters == f"weights_sha256={WEIGHTS}"
    assert lesion.RecommendedDisplayCIELabValue != head.RecommendedDisplayCIELabValue
    assert lesion.TrackingUID != head.TrackingUID


def test_frames_of_a_clip_read_back_equal_and_name_theirs(case: Cases, loaded: Loaded) -> None:
    masks = {0: blobs(), 2: np.zeros((40, 56), np.uint8), 3: np.roll(blobs(), 3, axis=1)}
    masks[3][masks[3] == 2] = 0
    made = loaded(segmentation(case(masks=masks)))
    assert made.NumberOfFrames == 3  # lesion, lesion, head: what is not there has no frame
    found = label_maps(made)
    assert sorted(found) == [0, 3]  # type: ignore[type-var]
    assert all(np.array_equal(found[number], masks[number]) for number in (0, 3))
    groups = made.PerFrameFunctionalGroupsSequence
    values = [list(group.FrameContentSequence[0].DimensionIndexValues) for group in groups]
    assert values == [[1, 1], [1, 3], [2, 1]]  # segment, then the place among the frames that were looked at
    pointers = [index.DimensionIndexPointer for index in made.DimensionIndexSequence]
    assert pointers == [0x0062000B, 0x00209128]  # Referenced Segment Number, Temporal Position Index
    for image in (made.SourceImageSequence[0], groups[0].DerivationImageSequence[0].SourceImageSequence[0]):
        assert image.ReferencedSOPClassUID == UltrasoundMultiFrameImageStorage


def test_a_structure_that_is_missing_in_the_middle_leaves_no_gap(case: Cases, loaded: Loaded) -> None:
    mask = np.where(blobs() == 1, 3, 0).astype(np.uint8)
    made = loaded(segmentation(case(masks={1: mask})))
    assert [(s.SegmentNumber, s.SegmentLabel) for s in made.SegmentSequence] == [(1, "nerve")]
    assert np.array_equal(label_maps(made)[1], mask == 3)


def test_highdicom_reads_them(case: Cases) -> None:
    image = highdicom.seg.segread(io.BytesIO(segmentation(case()) or b""))
    assert [image.get_segment_description(number).segment_label for number in image.segment_numbers] == [
        "lesion",
        "head",
    ]
    masks = {0: blobs(), 3: np.roll(blobs(), 3, axis=1)}
    clip = highdicom.seg.segread(io.BytesIO(segmentation(case(masks=masks)) or b""))
    source = clip.SourceImageSequence[0].ReferencedSOPInstanceUID
    found = clip.get_pixels_by_source_frame(source, [1, 4], combine_segments=True)
    assert np.array_equal(found, np.stack(list(masks.values())))


def test_nothing_found_is_no_object(case: Cases) -> None:
    assert segmentation(case(masks={0: np.zeros((40, 56), np.uint8)})) is None
