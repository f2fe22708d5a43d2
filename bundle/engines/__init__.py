# SPDX-License-Identifier: Apache-2.0
"""What MONAI's engines need around them for a multi-task, prompted network."""

from bundle.engines.batches import (
    PrepareBatch,
    TrainingNetwork,
    autocast_dtype,
    distributed_network,
    prepare_evaluation,
    prepare_items,
)
from bundle.engines.checkpoints import Checkpoints
from bundle.engines.cutmix import CutMix
from bundle.engines.folder import run_folder
from bundle.engines.freezing import Freezing
from bundle.engines.handlers import (
    GradientClipping,
    MetricsHistory,
    NamedHandlers,
    RunSummary,
    SeededEpochs,
    TrainingProgress,
    UpdateAverage,
    ema_model,
)
from bundle.engines.identity import run_identity
from bundle.engines.inferer import PromptedInferer
from bundle.engines.interaction import SimulatedInteraction
from bundle.engines.overlapped import OverlappedEvaluator
from bundle.engines.processes import ShareEvaluator
from bundle.engines.resizing import ProgressiveResizing
from bundle.engines.schedule import parameter_groups, warmup_polynomial
from bundle.engines.score import MultiTaskScore
from bundle.engines.served import SavedLabelTraining

__all__ = [
    "Checkpoints",
    "CutMix",
    "Freezing",
    "GradientClipping",
    "MetricsHistory",
    "MultiTaskScore",
    "NamedHandlers",
    "OverlappedEvaluator",
    "PrepareBatch",
    "ProgressiveResizing",
    "PromptedInferer",
    "RunSummary",
    "SavedLabelTraining",
    "SeededEpochs",
    "ShareEvaluator",
    "SimulatedInteraction",
    "TrainingNetwork",
    "TrainingProgress",
    "UpdateAverage",
    "autocast_dtype",
    "distributed_network",
    "ema_model",
    "parameter_groups",
    "prepare_evaluation",
    "prepare_items",
    "run_folder",
    "run_identity",
    "warmup_polynomial",
]
