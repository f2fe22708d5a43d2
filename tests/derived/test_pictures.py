# SPDX-License-Identifier: Apache-2.0
"""Presentation states and secondary captures."""

from collections.abc import Callable

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from bundle.derived import Case
from bundle.derived.capture import capture
from bundle.derived.outlines import outlines
from bundle.derived.presentation import presentation
from tests.derived.conftest import blobs

Cases = Callable[..., Case]
Loaded = Callable[[bytes | None], Dataset]


def test_outlines_are_polylines_in_pixels_of_the_source(case: Cases, loaded: Loaded) -> None:
    made = loaded(presentation(case(keep=True)))
    assert made.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage
    lesion, head = made.GraphicAnnotationSequence
    assert [layer.GraphicLayerDescription for layer in made.GraphicLayerSequence] == ["lesion", "head"]
    assert len(lesion.GraphicObjectSequence) == 3
    for found, expected in zip(lesion.GraphicObjectSequence, outlines(blobs() == 1), strict=True):
        assert (found.GraphicType, found.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
        np.testing.assert_array_equal(np.reshape(found.GraphicData, (-1, 2)), expected.astype(np.float32))
    assert head.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.840.999.1.33333"


def test_gray_sources_keep_their_window(case: Cases, loaded: Loaded) -> None:
    made = loaded(presentation(case(WindowCenter="100", WindowWidth="80")))
    window = made.SoftcopyVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == (100, 80)


@pytest.mark.parametrize("color", ["RGB", "YBR_FULL_422", "PALETTE COLOR"])
def test_color_sources_get_a_color_presentation_state(case: Cases, loaded: Loaded, color: str) -> None:
    made = loaded(presentation(case(PhotometricInterpretation=color)))
    assert made.SOPClassUID == ColorSoftcopyPresentationStateStorage
    assert made.ICCProfile[12:16] == b"scnr"


def test_each_frame_has_its_outlines(case: Cases, loaded: Loaded) -> None:
    made = loaded(presentation(case(masks={0: blobs(), 2: np.zeros((40, 56), np.uint8), 3: blobs()})))
    found = [
        (one.ReferencedImageSequence[0].ReferencedFrameNumber, one.GraphicLayer)
        for one in made.GraphicAnnotationSequence
    ]
    assert found == [(1, "STRUCTURE 1"), (1, "STRUCTURE 2"), (4, "STRUCTURE 1"), (4, "STRUCTURE 2")]
    assert len(made.GraphicLayerSequence) == 2


def test_nothing_found_is_no_presentation_state(case: Cases) -> None:
    assert presentation(case(masks={0: np.zeros((40, 56), np.uint8)})) is None


def test_a_capture_reads_back_equal(case: Cases, loaded: Loaded) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    made = loaded(capture(case(keep=True), picture))
    assert made.SOPClassUID == SecondaryCaptureImageStorage
    assert np.array_equal(made.pixel_array, picture)
    assert list(made.PixelSpacing) == [0.5, 0.2]
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.840.999.1.33333"


@pytest.mark.parametrize(("told", "said"), [("NO", "NO"), ("YES", "YES"), (None, "YES")])
def test_a_capture_may_show_what_is_burnt_in(case: Cases, loaded: Loaded, told: str | None, said: str) -> None:
    made = loaded(capture(case(BurnedInAnnotation=told), np.zeros((40, 56, 3), np.uint8)))
    assert made.BurnedInAnnotation == said


def test_captures_of_two_frames_are_two_instances_of_one_series(case: Cases, loaded: Loaded) -> None:
    one = case(masks={0: blobs()})
    other = case(masks={1: blobs()}, identity=one.identity)
    first, second = (loaded(capture(frame, np.zeros((40, 56, 3), np.uint8))) for frame in (one, other))
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert second.SourceImageSequence[0].ReferencedFrameNumber == 2
