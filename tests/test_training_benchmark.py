# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch

from scripts.benchmarks.loss_curves import plot, summary
from scripts.benchmarks.training import Training, Worker, made_up_batch


def test_the_summary_tells_the_differences() -> None:
    losses = np.array([[9.0, 9.0, 9.0], [2.0, 3.0, 0.0], [4.0, 3.0, 10.0]])  # plain, shipped, other seed
    assert summary(losses[1:]) == {
        "plain": 3.0,
        "shipped": 3.0,
        "other seed": 5.0,
        "difference": 0.0,
        "noise": 2.0,
        "step difference": 1.0,
        "step noise": 4.0,
    }


def test_the_curves_are_drawn() -> None:
    assert plot(np.random.default_rng(0).random((4, 3)))[:4] == b"\x89PNG"


def test_the_made_up_batch_has_both_tasks_and_one_step_lowers_its_loss() -> None:
    made = Training.from_config("compact", seed=0, encoder="test_convnext", decoder_channels=16, drop_path=0.0)
    image, prompt, target = made_up_batch(made.network, with_mask=4, seed=0)
    assert target["labeled"].any(1).tolist() == [True] * 4 + [False] * 12
    assert (target["cls"] >= 0).any(1).tolist() == [False] * 4 + [True] * 12
    assert all(torch.unique(label).numel() == 2 for label in target["label"][:4])

    def forward() -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = made.network.predict(image, prompt)
        return {**outputs, "seg": outputs["seg"][:4]}

    losses = [made.step(forward, target) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]


def test_a_worker_that_ends_says_how_to_see_why() -> None:
    with (
        Worker("compact", "no such way", seed=0) as worker,
        pytest.raises(
            RuntimeError, match=r"must answer, but it ended with 1; see why with: .*training compact no such"
        ),
    ):
        worker.call()
