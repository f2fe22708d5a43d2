# SPDX-License-Identifier: Apache-2.0
"""A box of an image shows another one, and its answers count by their share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.losses import DiceCELoss

from bundle.engines import CutMix, PrepareBatch
from bundle.engines.cutmix import partners, random_box
from bundle.tasks import Masks, MultiTaskLoss, Points, class_tasks
from bundle.vocabulary import Organs

ORGANS = Organs({"breast": {"structures": ["a", "b"], "classes": ["x", "y"]}, "indis": {}})
TASKS = [
    Masks(ORGANS, criterion=DiceCELoss(softmax=True, to_onehot_y=True)),
    *class_tasks(ORGANS),
    Points(ORGANS, {"breast": ["tip"]}),
]


def batch() -> dict[str, Any]:
    """Three images as bright as their mask says: the first two with the same prompts."""
    label = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1).repeat(1, 1, 32, 32)
    labeled = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    points = torch.tensor([[[3.0, 4.0, 1.0]]] * 3)
    targets = {"seg": {"label": label, "labeled": labeled}, "cls_breast": torch.tensor([0, 1, 1]), "points": points}
    prompt = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    return {
        "image": label.repeat(1, 3, 1, 1),
        "targets": targets,
        "prompt": prompt,
        "interaction": torch.full((3, 4), 5),
    }


def mixed(seed: int = 0, prob: float = 1.0) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    engine = Engine(lambda _, data: found.append(data))
    CutMix(TASKS, prob).attach(engine)
    torch.manual_seed(seed)
    engine.run([batch()], max_epochs=1)
    return found[0]


def test_masks_follow_the_box_and_what_has_no_partner_stays_whole() -> None:
    found = mixed()
    share, seg = found["mixed"]["share"], found["targets"]["seg"]
    assert 0 < share < 1
    assert torch.equal(found["image"], seg["label"].repeat(1, 3, 1, 1))
    means = seg["label"].mean((1, 2, 3))
    assert means.tolist() == pytest.approx([share, 1 - share, 2.0])
    assert seg["labeled"].tolist() == [[True, True, False], [True, True, False], [True, True, True]]
    assert found["mixed"]["targets"]["cls_breast"].tolist() == [1, 0, 1]
    assert found["targets"]["cls_breast"].tolist() == [0, 1, 1]
    assert TASKS[-1].labeled(found["targets"]["points"]).tolist() == [False, False, True]
    assert not found["interaction"].any()


def test_both_answers_count_by_their_share_of_the_pixels() -> None:
    found = mixed()
    share = found["mixed"]["share"]
    _, target, _, more = PrepareBatch(TASKS)(found, device="cpu")
    logits = {"seg": torch.zeros(3, 3, 32, 32), "cls_breast": torch.tensor([[2.0, 0.0]] * 3), "points": None}
    logits["points"] = torch.zeros(3, 1, 8, 8)
    assert more["mapped"].all()
    loss = MultiTaskLoss([TASKS[1]])({"cls_breast": logits["cls_breast"]}, target)
    of_x, of_y = torch.nn.functional.cross_entropy(
        torch.tensor([[2.0, 0.0]] * 2), torch.tensor([0, 1]), reduction="none"
    )
    expected = ((1 - share) * of_x + share * of_y + share * of_x + (1 - share) * of_y + of_y) / 3
    assert float(loss) == pytest.approx(float(expected))
    assert MultiTaskLoss(TASKS)(logits, target).isfinite()


def test_prob_is_the_share_of_the_batches() -> None:
    found = ["mixed" in mixed(seed, 0.3) for seed in range(200)]
    assert 0.2 < sum(found) / len(found) < 0.4
    assert "mixed" not in mixed(prob=0.0)
    with pytest.raises(ValueError, match="cutmix_prob must be a share of the batches"):
        CutMix(TASKS, 1.5)


def test_partners_are_next_in_the_circle_of_the_same_prompts() -> None:
    prompt = torch.tensor([[1.0], [0.0], [1.0], [2.0], [1.0]])
    assert partners(prompt).tolist() == [2, 1, 4, 3, 0]


def test_boxes_are_anywhere_and_of_any_size() -> None:
    torch.manual_seed(0)
    boxes = torch.stack([random_box((40, 60)) for _ in range(400)])
    shares = boxes.float().mean((1, 2))
    assert shares.min() < 0.05
    assert shares.max() > 0.8
    assert 0.1 < boxes.float().mean(0).min() < boxes.float().mean(0).max() < 0.6
