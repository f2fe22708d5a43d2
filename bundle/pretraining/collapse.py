# SPDX-License-Identifier: Apache-2.0
"""Whether an encoder's features still differ: a pretraining can find one answer to all images."""

from __future__ import annotations

import logging

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor

logger = logging.getLogger(__name__)

MOST = 2048
"""Features of an epoch that are looked at."""

LEAST_SPREAD, LEAST_RANK = 0.1, 0.02
"""Below these, features of ultrasound count as collapsed; the rank as a share of what is possible."""


class FeatureSpread:
    """Notes at the end of each epoch how far its feature vectors spread, and warns where they collapse.

    ``spread`` and ``rank`` join the trainer's metrics, see :func:`spread` and :func:`effective_rank`. Neither MONAI nor
    ignite has such a measure.
    """

    def __init__(self) -> None:
        self.features: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer, before the one that writes the history."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.features.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)

    def _collect(self, engine: Engine) -> None:
        if sum(map(len, self.features)) < MOST:
            self.features.append(engine.state.output["pred"]["feature"].float().cpu())

    def _note(self, engine: Engine) -> None:
        features = torch.cat(self.features)[:MOST]
        found = {"spread": spread(features), "rank": effective_rank(features)}
        engine.state.metrics.update(found)
        possible = min(features.shape)
        if (found["spread"] < LEAST_SPREAD or found["rank"] < LEAST_RANK * possible) and idist.get_rank() == 0:
            logger.warning(
                f"epoch {engine.state.epoch}: the features of different images are nearly the same (spread "
                f"{found['spread']:.3f}, rank {found['rank']:.1f} of {possible}); lower --learning_rate, or use another"
                " objective."
            )


def spread(features: Tensor) -> float:
    """Root mean square distance of normalized features (N, C) from their mean: 0 where all are the same, 1 at most."""
    unit = F.normalize(features, dim=1)
    return float((unit - unit.mean(0)).square().sum(1).mean().sqrt())


def effective_rank(features: Tensor) -> float:
    """How many directions features (N, C) take: the exponential of the entropy of their singular values, 1 to C.

    Reference:
        Garrido et al. 2023, "RankMe", arXiv 2210.02885, equation 1.
    """
    values = torch.linalg.svdvals(features - features.mean(0))
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))
