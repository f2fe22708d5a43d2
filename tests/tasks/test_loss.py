# SPDX-License-Identifier: Apache-2.0
"""The loss of all tasks together, by hand: means over labels by group, over all processes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss

from bundle.tasks import Masks, MultiTaskLoss, class_tasks, select
from bundle.vocabulary import Organs

ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"], "classes": ["normal", "benign", "malignant"]},
        "lung": {"classes": ["healthy", "sick"]},
        "indis": {},
    }
)


def loss(*, weight: float = 1.0) -> MultiTaskLoss:
    """Cross-entropy of masks and classes; ``weight`` is that of the classes."""
    masks = Masks(ORGANS, criterion=DiceCELoss(softmax=True, to_onehot_y=True, lambda_dice=0.0))
    return MultiTaskLoss([masks, *class_tasks(ORGANS, weight=weight)])


def targets(masked: list[bool], breast: list[int], lung: list[int]) -> dict[str, Any]:
    labeled = torch.tensor(masked)[:, None].expand(-1, 2)
    masks = {"label": torch.ones(len(masked), 1, 4, 4), "labeled": labeled}
    return {"seg": masks, "cls_breast": torch.tensor(breast), "cls_lung": torch.tensor(lung)}


def uniform(rows: int, masks: int) -> dict[str, torch.Tensor]:
    """Logits that are all 0: log 2 for a mask, log 3 for a breast's class, log 2 for a lung's."""
    return {
        "seg": torch.zeros(masks, 2, 4, 4),
        "cls_breast": torch.zeros(rows, 3),
        "cls_lung": torch.zeros(rows, 2),
    }


def test_groups_have_means_of_their_own_over_what_is_labeled() -> None:
    # Two masks: mean log 2. Two breasts and one lung share a mean: (2 log 3 + log 2) / 3, with weight 0.5.
    target = {"targets": targets([True, False, True, False], [2, 0, -1, -1], [-1, -1, -1, 1])}
    expected = math.log(2) + 0.5 * (2 * math.log(3) + math.log(2)) / 3
    assert loss(weight=0.5)(uniform(4, 2), target).item() == pytest.approx(expected, rel=1e-6)


def test_a_group_without_labels_adds_nothing_and_gives_a_gradient() -> None:
    pred = {name: value.requires_grad_() for name, value in uniform(2, 0).items()}
    total = loss()(pred, {"targets": targets([False] * 2, [1, -1], [-1, -1])})
    assert total.item() == pytest.approx(math.log(3), rel=1e-6)
    total.backward()  # type: ignore[no-untyped-call]
    assert pred["cls_breast"].grad is not None
    assert pred["cls_breast"].grad[1].eq(0).all()


def test_samples_with_a_user_add_and_do_not_count() -> None:
    # Two masks and one with a user: 3 log 2 / 2. One class, none of the user's.
    target = {"targets": targets([True] * 3, [1, -1, -1], [-1] * 3), "guided": torch.tensor([False, False, True])}
    expected = 3 * math.log(2) / 2 + math.log(3)
    assert loss()(uniform(3, 3), target).item() == pytest.approx(expected, rel=1e-6)


def sample() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Logits of five samples, three of them with a mask, and their targets."""
    torch.manual_seed(0)
    pred = {name: torch.randn(value.shape) for name, value in uniform(5, 3).items()}
    return pred, targets([True, True, True, False, False], [2, -1, -1, 0, -1], [-1, -1, -1, -1, 1])


def _loss_on(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # the forked OpenMP pool has no threads behind it
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    pred, target = sample()
    mine, masks = (slice(0, 2), slice(0, 2)) if rank == 0 else (slice(2, 5), slice(2, 3))
    own = {name: value[masks if name == "seg" else mine] for name, value in pred.items()}
    rows = torch.arange(5)[mine]
    value = loss()(own, {"targets": {name: select(t, rows) for name, t in target.items()}})
    torch.save(value, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_mean_of_two_processes_is_the_loss_of_one(tmp_path: Path) -> None:
    """Although they have two and one of the masks, and one and two of the classes."""
    torch.multiprocessing.start_processes(_loss_on, args=(str(tmp_path),), nprocs=2, start_method="fork")
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    pred, target = sample()
    assert torch.stack(shares).mean().item() == pytest.approx(loss()(pred, {"targets": target}).item(), rel=1e-6)
