# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from monai.losses import DiceCELoss

from bundle.losses import PartialLabelLoss


def dice_ce(**kwargs: float) -> DiceCELoss:
    return DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, **kwargs)


def test_structures_that_a_set_does_not_label_do_not_count() -> None:
    # Channel 1 is this set's structure, channel 2 another set's: its huge logit must change nothing.
    logits = torch.zeros(1, 3, 2, 2)
    label = torch.ones(1, 1, 2, 2)
    labeled = torch.tensor([[True, True, False]])
    plain = PartialLabelLoss(dice_ce(lambda_dice=0.0))(logits, label, labeled)
    logits[:, 2] = 50.0
    assert PartialLabelLoss(dice_ce(lambda_dice=0.0))(logits, label, labeled) == plain
    assert plain.item() == pytest.approx(math.log(2))  # a softmax over two channels, not three


def test_what_other_organs_show_is_absent() -> None:
    # A set of heads (2), where breasts show 1 and limbs 3 or 4: three of five equal probabilities are impossible.
    organs = [[1], [2], [3, 4]]
    label, labeled = torch.zeros(1, 1, 2, 2), torch.tensor([[True, False, True, False, False]])
    ce = dice_ce(lambda_dice=0.0)
    logits = torch.zeros(1, 5, 2, 2)
    assert PartialLabelLoss(ce, organs)(logits, label, labeled).item() == pytest.approx(math.log(2) + math.log(5 / 2))
    logits[:, [1, 3, 4]] = -50.0
    assert PartialLabelLoss(ce, organs)(logits, label, labeled).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("labeled", [[True, True, False, True], [True, False, True, False], [True] * 4])
def test_what_an_organ_in_sight_can_show_stays_open(labeled: list[bool]) -> None:
    # The second organ shares structure 1 with the first and has 2 and 3: nothing that it can show is absent.
    logits, label = torch.randn(1, 4, 2, 2), torch.zeros(1, 1, 2, 2)
    rows = torch.tensor([labeled])
    plain = PartialLabelLoss(dice_ce())(logits, label, rows)
    assert PartialLabelLoss(dice_ce(), [[1], [1, 2, 3]])(logits, label, rows) == plain


def test_structure_indices_are_mapped_into_the_labeled_channels() -> None:
    # The set labels structures 2 and 3 of four; pixels of structure 3 are predicted right with a margin of 5.
    logits = torch.zeros(1, 4, 2, 2)
    logits[:, 3] = 5.0
    loss = PartialLabelLoss(dice_ce(lambda_dice=0.0))(
        logits, torch.full((1, 1, 2, 2), 3), torch.tensor([[True, False, True, True]])
    )
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-5.0)), rel=1e-5)


def test_mixed_tables_sum_to_the_samples_alone() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(3, 4, 8, 8), torch.randint(0, 2, (3, 1, 8, 8))
    labeled = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    loss = PartialLabelLoss(dice_ce())
    alone = sum(loss(logits[i : i + 1], label[i : i + 1], labeled[i : i + 1]) for i in range(3))
    assert loss(logits, label, labeled).item() == pytest.approx(float(alone), rel=1e-5)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 2, (2, 1, 3, 3))
    labeled = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()

    class InDouble(PartialLabelLoss):  # the loss computes in float32, too coarse for numerical gradients
        def forward(self, logits, label, labeled):  # type: ignore[no-untyped-def]
            rows = [
                self.loss(logits[i : i + 1][:, row.nonzero()[:, 0]], label[i : i + 1]) for i, row in enumerate(labeled)
            ]
            return sum(rows)

    reference = InDouble(dice_ce())(logits, label, labeled)
    assert torch.autograd.gradcheck(lambda x: InDouble(dice_ce())(x, label, labeled), (logits,))
    (expected,) = torch.autograd.grad(reference, logits)
    single = logits.detach().float().requires_grad_()
    (got,) = torch.autograd.grad(PartialLabelLoss(dice_ce())(single, label, labeled), single)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-4)
