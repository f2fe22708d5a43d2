# SPDX-License-Identifier: Apache-2.0
"""How a simulated user acts on a training sample."""

import numpy as np
import pytest
import torch

from bundle.transforms import PlanInteractiond


def plans(transform: PlanInteractiond, count: int = 4000) -> np.ndarray:
    return np.stack([transform({})["interaction"].numpy() for _ in range(count)])


def test_how_users_act_follows_the_probabilities() -> None:
    drawn = plans(PlanInteractiond(0.5).set_random_state(seed=0))
    guided = drawn[drawn[:, :2].any(1)]
    clicks, box, former, seed = guided.T
    # half have a user; a box without a click (0.25 * 0.45) is one too
    assert len(guided) / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert not drawn[~drawn[:, :2].any(1)].any()
    assert box.mean() == pytest.approx(0.25, abs=0.03)
    assert former.mean() == pytest.approx(0.25, abs=0.03)
    # each further click with 0.55, at most ten: (1 - 0.55^10) / 0.45 in the mean, with a box 0.55 times that
    assert clicks[box == 0].mean() == pytest.approx(2.22, abs=0.15)
    assert clicks[box == 1].mean() == pytest.approx(1.22, abs=0.25)
    assert (clicks[box == 0].min(), clicks[box == 1].min(), clicks.max()) == (1, 0, 10)
    assert len(np.unique(seed)) > 0.99 * len(guided)
    assert 0 <= seed.min() < seed.max() < 2**31


def test_the_plan_is_four_whole_numbers() -> None:
    item = {"image": "a.png"}
    plan = PlanInteractiond(1.0, max_clicks=1, more_prob=1.0, box_prob=0.0, mask_prob=1.0)(item)
    assert list(item) == ["image"]
    assert plan["image"] == "a.png"
    assert plan["interaction"].dtype == torch.int64
    assert plan["interaction"][:3].tolist() == [1, 0, 1]
    box = PlanInteractiond(1.0, more_prob=0.0, box_prob=1.0, mask_prob=0.0)({})["interaction"]
    assert box[:3].tolist() == [0, 1, 0]


def test_plans_follow_the_seed() -> None:
    one, again, other = (plans(PlanInteractiond().set_random_state(seed=s), 50).tolist() for s in (1, 1, 2))
    assert one == again
    assert one != other


def test_probability_zero_is_no_user() -> None:
    assert not plans(PlanInteractiond(0.0), 200).any()
