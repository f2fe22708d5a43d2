# SPDX-License-Identifier: Apache-2.0
"""What is predicted, by which teacher, and which patches are hidden when."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bundle.networks.encoder import ConvNeXtEncoder
from bundle.pretraining import MaskedLatents, Pretraining, Teacher

UNIT: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture
def encoder() -> ConvNeXtEncoder:
    torch.manual_seed(0)
    return ConvNeXtEncoder("test_convnext")


def averaged(encoder: ConvNeXtEncoder, **changes: Any) -> Pretraining:
    options = {"encoder": encoder, "momentum": 0.75, "steps": 10, **UNIT, **changes}
    return Pretraining(encoder, {"latents": MaskedLatents(encoder.channels, **options)}, **UNIT).train()


def hidden_share(mask: Tensor) -> float:
    return float(mask.float().mean())


def test_an_averaged_teacher_moves_by_the_stated_average(encoder: ConvNeXtEncoder) -> None:
    network, image = averaged(encoder), torch.rand(2, 3, 64, 64)
    latents = network.objectives["latents"]
    network(image)  # the first step: the student itself
    for mine, theirs in zip(latents.teacher.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    before = [value.clone() for value in latents.teacher.parameters()]
    network(image)
    for mine, old, student in zip(latents.teacher.parameters(), before, encoder.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.75 * old + 0.25 * student)
        assert mine.grad is None
        assert not mine.requires_grad
    network.eval()(image)
    assert int(latents.step) == 2


def test_a_frozen_teacher_does_not_move_to_the_bit(encoder: ConvNeXtEncoder, teacher_file: Path) -> None:
    teacher = Teacher("test_efficientnet", weights=str(teacher_file))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    latents = MaskedLatents(encoder.channels, teacher=teacher, steps=3, **UNIT)
    network = Pretraining(encoder, {"latents": latents}, **UNIT).train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.01)
    losses = []
    torch.manual_seed(0)
    image = torch.rand(4, 3, 64, 64)
    for _ in range(12):
        loss = network(image)["losses"]["latents"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert min(losses[-3:]) < 0.9 * losses[0]
    assert latents.config()["teacher"] == "test_efficientnet"


def test_the_student_does_not_see_what_is_hidden(encoder: ConvNeXtEncoder) -> None:
    latents, shown = averaged(encoder).objectives["latents"].eval(), []

    def encode(image: Tensor) -> tuple[list[Tensor], Tensor]:
        shown.append(image)
        levels, feature = encoder(image)
        return levels, feature

    image = torch.zeros(2, 3, 128, 128)
    image[:, :, ::2] = 1
    latents(image, encode)
    changed = (shown[0] != image).any(1).float()
    patches = torch.nn.functional.avg_pool2d(changed[:, None], 32).flatten(1)
    assert (patches > 0.9).sum(1).tolist() == [5, 5]  # 0.3 of 16 patches
    assert (patches == 0).sum(1).tolist() == [11, 11]


def test_masks_grow_and_turn_to_what_the_student_tells_worst(encoder: ConvNeXtEncoder) -> None:
    latents = averaged(encoder, patch_ratio=(0.25, 0.75), hardness=1.0).objectives["latents"].eval()
    image, levels = torch.rand(1, 3, 128, 128), [torch.zeros(1, c, 1, 1) for c in encoder.channels]
    truth = [torch.zeros(1, width, 4 * scale, 4 * scale) for width, scale in zip((48, 64), (2, 1), strict=True)]

    def encode(image: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = [level.expand(1, -1, 128 // s, 128 // s) for level, s in zip(levels, (4, 8, 16, 32), strict=True)]
        return maps, torch.zeros(1)

    assert hidden_share(latents.hidden(image, truth, encode)) == 0.25
    latents.step.fill_(5)
    assert hidden_share(latents.hidden(image, truth, encode)) == 0.5
    latents.step.fill_(10)
    for predictor in latents.predictors:
        torch.nn.init.zeros_(predictor[-1].weight)
        torch.nn.init.zeros_(predictor[-1].bias)
    truth[0][:, :, 2:], truth[1][:, :, 1:] = 1.0, 1.0  # the student tells 0: it errs below the first row of patches
    mask = latents.hidden(image, truth, encode)
    assert mask[:, :, 32:].all()
    assert not mask[:, :, :32].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 16}, "patch must be a multiple of 32"),
        ({"patch_ratio": (0.0, 0.5)}, "patch_ratio must be two shares"),
        ({"hardness": 2}, "hardness must be from 0 to 1"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\), got 1.0"),
        ({"encoder": None}, "need a teacher, or an encoder"),
        ({"steps": 0}, "steps must be 1 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(encoder: ConvNeXtEncoder, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedLatents(encoder.channels, **{"encoder": encoder, "momentum": 0.75, "steps": 10, **UNIT, **changes})
