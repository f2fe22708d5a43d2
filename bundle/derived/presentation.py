# SPDX-License-Identifier: Apache-2.0
"""DICOM presentation state: outlines that a viewer draws over the source."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from PIL.ImageCms import ImageCmsProfile, createProfile

from bundle.derived.case import Case, Shot, highdicom
from bundle.derived.outlines import outlines
from bundle.palette import color

_DISPLAY = ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "RescaleType")
"""Entries of a gray source that a viewer needs to show it under a presentation state as without one."""


def presentation(case: Case) -> bytes | None:
    """A Softcopy Presentation State with the outlines of the structures, a layer for each; None where there are none.

    A Grayscale one (PS3.3 A.33.1) for gray sources, a Color one (A.33.2) for RGB, YBR and palettes. Outlines are
    polylines in pixels of the source, see :func:`bundle.derived.outlines.outlines`.
    """
    layers: dict[int, Any] = {}
    annotations = [
        _annotation(case, shot, index, layers)
        for shot in case.shots
        for index in range(1, len(case.structures))
        if (shot.mask == index).any()
    ]
    if not annotations:
        return None
    gray = str(case.header.get("PhotometricInterpretation", "")).strip().startswith("MONOCHROME")
    kind = highdicom.pr.GrayscaleSoftcopyPresentationState if gray else highdicom.pr.ColorSoftcopyPresentationState
    source = copy.copy(case.source)
    source.SamplesPerPixel = 1 if gray else 3  # a palette's too: it is applied before
    for keyword in _DISPLAY if gray else ():
        if case.header.get(keyword) not in (None, ""):
            source[keyword] = case.header[keyword]
    made = kind(
        referenced_images=[source],
        content_label="OUTLINES",
        content_description="Outlines of structures by a network",
        graphic_layers=list(layers.values()),
        graphic_annotations=annotations,
        **({} if gray else {"icc_profile": _srgb()}),
        **case.heading("PR"),
        **case.device,
    )
    made.Laterality = case.laterality
    return case.finished(made)


def _srgb() -> bytes:
    """The profile of sRGB as one of input, which PS3.3 C.11.15.1.1 asks for and LittleCMS does not make."""
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    return profile[:12] + b"scnr" + profile[16:]


def _annotation(case: Case, shot: Shot, index: int, layers: dict[int, Any]) -> Any:
    """The outlines of a structure in an image or a frame; its layer is made when it is the first."""
    pr, name = highdicom.pr, case.structures[index]
    if index not in layers:
        layers[index] = pr.GraphicLayer(
            layer_name=f"STRUCTURE {index}",
            order=index,
            description=name[:64],
            display_color=highdicom.color.CIELabColor.from_rgb(*color(index)),
        )
    objects = [
        pr.GraphicObject(
            "POLYLINE", line.astype(np.float32), "PIXEL", tracking_id=name, tracking_uid=case.tracking(name)
        )
        for line in outlines(shot.mask == index)
    ]
    annotation = pr.GraphicAnnotation([case.source], layers[index], graphic_objects=objects)
    if shot.frame is not None:
        annotation.ReferencedImageSequence[0].ReferencedFrameNumber = shot.frame + 1
    return annotation
