# SPDX-License-Identifier: Apache-2.0
"""An encoder's start before there are labels: what it learns from, and how."""

from bundle.pretraining.batches import TotalLoss, prepare_images
from bundle.pretraining.collapse import FeatureSpread
from bundle.pretraining.distillation import Distillation
from bundle.pretraining.hierarchy import OrganHierarchy
from bundle.pretraining.latent import MaskedLatents
from bundle.pretraining.network import Pretraining
from bundle.pretraining.pictures import Reconstructions
from bundle.pretraining.reconstruction import MaskedReconstruction
from bundle.pretraining.teachers import Teacher

__all__ = [
    "Distillation",
    "FeatureSpread",
    "MaskedLatents",
    "MaskedReconstruction",
    "OrganHierarchy",
    "Pretraining",
    "Reconstructions",
    "Teacher",
    "TotalLoss",
    "prepare_images",
]
