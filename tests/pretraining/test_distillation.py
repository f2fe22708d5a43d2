# SPDX-License-Identifier: Apache-2.0
"""The loss is the share of the teacher's variance that the student does not explain."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.networks.encoder import ConvNeXtEncoder
from bundle.pretraining import Distillation, Pretraining, Teacher, TotalLoss
from bundle.pretraining.distillation import unexplained


def test_a_student_that_tells_the_mean_explains_nothing() -> None:
    truth = torch.randn(4, 3, 5, 5) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1) + 7
    assert unexplained(torch.zeros_like(truth), truth) == pytest.approx(1.0, abs=1e-5)


def test_a_student_that_tells_all_explains_all() -> None:
    truth = torch.tensor([[1.0, 40.0], [3.0, 20.0]])  # two images, two channels: standardized -1, 1 and 1, -1
    assert unexplained(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]), truth) == pytest.approx(0.0, abs=1e-6)
    assert unexplained(torch.tensor([[-1.0, 1.0], [1.0, 1.0]]), truth) == pytest.approx(1.0)  # (0 + 0 + 0 + 4) / 4


def test_a_channel_without_variance_costs_nothing_and_stays_finite() -> None:
    truth = torch.full((2, 1, 3, 3), 5.0)
    assert unexplained(torch.zeros_like(truth), truth) == 0


def make(teacher_file: Path) -> Pretraining:
    torch.manual_seed(0)
    encoder = ConvNeXtEncoder("test_convnext", pooling="avgmax")
    teacher = Teacher("test_efficientnet", weights=str(teacher_file))
    objective = Distillation([teacher], encoder.channels)
    return Pretraining(encoder, {"distillation": objective}, mean=[0.5] * 3, std=[0.25] * 3)


def test_every_parameter_of_the_student_learns_and_none_of_the_teacher(teacher_file: Path) -> None:
    network = make(teacher_file).train()
    TotalLoss()(network(torch.rand(3, 3, 64, 96)), torch.empty(0)).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == ("teachers" in name), name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


def test_a_student_approaches_its_teacher(teacher_file: Path) -> None:
    network = make(teacher_file).train()
    image = torch.rand(4, 3, 64, 64)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.003)
    losses = []
    for _ in range(40):
        loss = TotalLoss()(network(image), image)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_maps_of_equal_stride_are_compared(teacher_file: Path) -> None:
    [pairs] = make(teacher_file).objectives["distillation"].pairs  # type: ignore[union-attr]
    teacher = Teacher("test_efficientnet", weights=str(teacher_file))
    assert [stride for _, stride in pairs] == [4, 8, 16, 32]
    assert all(teacher.reductions[index] == stride for index, stride in pairs)


def test_the_sum_is_weighted() -> None:
    outputs = {"losses": {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, "feature": torch.ones(1, 1)}
    assert TotalLoss({"b": 0.5})(outputs, torch.empty(0)) == 3.5
    with pytest.raises(ValueError, match=r"objective_weights must name some of \['a', 'b'\], got \['c'\]"):
        TotalLoss({"c": 1.0})(outputs, torch.empty(0))


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": float("nan")}, {"a": "1"}, {"a": True}, "a"])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="objective_weights must map objectives to numbers from 0"):
        TotalLoss(weights)
