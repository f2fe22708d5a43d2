# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that MONAI lacks."""

from bundle.transforms.crop import RandCropToStructured
from bundle.transforms.guidance import DrawGuidanced, PlanInteractiond, ReadRequestd
from bundle.transforms.items import ItemDefaultsd
from bundle.transforms.loading import LoadMaskd, LoadUltrasoundd
from bundle.transforms.prompts import EncodePromptd
from bundle.transforms.results import DescribePredictiond, SplitPredictiond, ToLabelMapd, ToStudyd

__all__ = [
    "DescribePredictiond",
    "DrawGuidanced",
    "EncodePromptd",
    "ItemDefaultsd",
    "LoadMaskd",
    "LoadUltrasoundd",
    "PlanInteractiond",
    "RandCropToStructured",
    "ReadRequestd",
    "SplitPredictiond",
    "ToLabelMapd",
    "ToStudyd",
]
