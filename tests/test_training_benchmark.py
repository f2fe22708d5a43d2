# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from scripts.benchmarks.training import Training, Worker, made_up_batch


def test_the_made_up_batch_has_both_tasks_and_one_step_lowers_its_loss() -> None:
    made = Training.from_config("compact", seed=0, encoder="test_convnext", decoder_channels=16, drop_path=0.0)
    image, prompt, target = made_up_batch(made.network, made.tasks, with_mask=4, seed=0)
    masks = target["targets"]["seg"]
    assert masks["labeled"].any(1).tolist() == [True] * 4 + [False] * 12
    classes = torch.stack([value for name, value in target["targets"].items() if name.startswith("cls_")])
    assert (classes >= 0).any(0).tolist() == [False] * 4 + [True] * 12
    assert all(torch.unique(label).numel() == 2 for label in masks["label"][:4])

    def forward() -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = made.network.predict(image, prompt)
        return {**outputs, **{name: outputs[name][:4] for name in made.network.map_heads}}

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
