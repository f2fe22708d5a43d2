# SPDX-License-Identifier: Apache-2.0
"""Features that differ are told from features that do not."""

import logging

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from bundle.pretraining.collapse import FeatureSpread, effective_rank, spread


def test_spread_of_equal_and_of_opposite_features() -> None:
    assert spread(torch.ones(10, 4)) == pytest.approx(0.0, abs=1e-6)
    assert spread(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(1.0)  # lengths do not count
    assert spread(torch.tensor([[2.0, 0.0], [0.0, 2.0]])) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("directions", [1, 2, 5])
def test_rank_counts_equal_directions(directions: int) -> None:
    axes = torch.eye(8)[:directions]
    assert effective_rank(torch.cat([axes, -axes]) * 7) == pytest.approx(directions, rel=1e-3)


def test_rank_is_between_one_and_the_number_of_directions() -> None:
    uneven = torch.diag(torch.tensor([10.0, 1.0, 0.1]))
    assert 1 < effective_rank(torch.cat([uneven, -uneven])) < 2


@pytest.mark.parametrize("collapsed", [True, False])
def test_a_collapse_is_told(collapsed: bool, caplog: pytest.LogCaptureFixture) -> None:
    random = torch.Generator().manual_seed(0)

    def step(engine: Engine, batch: int) -> dict[str, dict[str, Tensor]]:
        features = torch.randn(16, 32, generator=random)
        return {"pred": {"feature": 1 + 1e-3 * features if collapsed else features}}

    engine = Engine(step)
    FeatureSpread().attach(engine)
    with caplog.at_level(logging.WARNING, logger="bundle"):
        engine.run(range(4), max_epochs=1)
    assert ("nearly the same" in caplog.text) == collapsed
    assert (engine.state.metrics["spread"] < 0.1) == collapsed
    assert engine.state.metrics["rank"] > 20  # of noise, whatever its size
