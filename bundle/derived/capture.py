# SPDX-License-Identifier: Apache-2.0
"""DICOM secondary capture: a picture of the result for viewers that show nothing else."""

from __future__ import annotations

import numpy as np

from bundle.derived.case import Case, highdicom


def capture(case: Case, picture: np.ndarray) -> bytes:
    """A Secondary Capture object (PS3.3 A.8) of a picture (H, W, 3) uint8 of one image or frame.

    What is burnt into the source's pixels is burnt into it too, and so its header says, unless the source's says no.
    """
    shot = case.shots[0]
    spacing = shot.result["spacing_mm"]
    made = highdicom.sc.SCImage(
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        pixel_spacing=None if spacing["row"] is None else (spacing["row"], spacing["column"]),
        study_instance_uid=case.source.StudyInstanceUID,
        **case.heading("SC", "" if shot.frame is None else str(shot.frame)),
        **case.device,
    )
    made.PatientOrientation = None  # not known
    made.Laterality = case.laterality
    burned = str(case.header.get("BurnedInAnnotation") or "").strip().upper()
    made.BurnedInAnnotation = "NO" if burned == "NO" else "YES"
    made.DerivationDescription = "Structures that a network found, over the image"
    source = highdicom.content.ReferencedImageSequence([case.source])
    if shot.frame is not None:
        source[0].ReferencedFrameNumber = shot.frame + 1
    made.SourceImageSequence = source
    for keyword, value in (
        ("ManufacturerModelName", "manufacturer_model_name"),
        ("SoftwareVersions", "software_versions"),
    ):
        setattr(made, keyword, case.device[value])
    return case.finished(made)
