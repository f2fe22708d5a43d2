# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that MONAI lacks."""

from bundle.transforms.crop import RandCropToStructured
from bundle.transforms.items import ItemDefaultsd
from bundle.transforms.loading import LoadMaskd, LoadUltrasoundd
from bundle.transforms.prompts import EncodePromptd, SplitPredictiond, ToLabelMapd

__all__ = [
    "EncodePromptd",
    "ItemDefaultsd",
    "LoadMaskd",
    "LoadUltrasoundd",
    "RandCropToStructured",
    "SplitPredictiond",
    "ToLabelMapd",
]
