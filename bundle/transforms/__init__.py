# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that MONAI lacks."""

from bundle.transforms.degradations import RandDegradeUltrasoundd
from bundle.transforms.guidance import DrawGuidanced, PlanInteractiond
from bundle.transforms.items import ItemDefaultsd
from bundle.transforms.letterbox import Letterboxd
from bundle.transforms.loading import LoadMaskd, LoadUltrasoundd
from bundle.transforms.plausibility import CheckPlausibled
from bundle.transforms.prompts import EncodePromptd
from bundle.transforms.requests import ReadRequestd
from bundle.transforms.results import ToStudyd
from bundle.transforms.samples import GreyToRGBd, RandGeometryd, ShrinkSampled
from bundle.transforms.seeing.view import SelectViewd
from bundle.transforms.spacing import AssumeSpacingd

__all__ = [
    "AssumeSpacingd",
    "CheckPlausibled",
    "DrawGuidanced",
    "EncodePromptd",
    "GreyToRGBd",
    "ItemDefaultsd",
    "Letterboxd",
    "LoadMaskd",
    "LoadUltrasoundd",
    "PlanInteractiond",
    "RandDegradeUltrasoundd",
    "RandGeometryd",
    "ReadRequestd",
    "SelectViewd",
    "ShrinkSampled",
    "ToStudyd",
]
