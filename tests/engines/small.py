# SPDX-License-Identifier: Apache-2.0
"""A small network that the tests of batches share."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses import DiceCELoss

from bundle.networks import UPerConvNeXt, build_uperconvnext
from bundle.tasks import Masks, class_tasks
from bundle.vocabulary import Organs

ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"], "classes": ["normal", "malignant"]},
        "lung": {},
        "indis": {"structures": ["nerve"]},  # no organ's
    }
)
TASKS = [Masks(ORGANS, criterion=DiceCELoss(softmax=True, to_onehot_y=True), absent=False), *class_tasks(ORGANS)]
POSITIONS, STRUCTURES, LABEL_SETS = ORGANS.positions, ORGANS.structures, ORGANS.label_sets


def make_network(**changes: Any) -> UPerConvNeXt:
    torch.manual_seed(0)
    options = {
        "encoder": "test_convnext",
        "decoder_channels": 16,
        "structures": STRUCTURES,
        "label_sets": LABEL_SETS,
        "positions": POSITIONS,
    }
    return build_uperconvnext(**{**options, **changes})
