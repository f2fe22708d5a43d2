# SPDX-License-Identifier: Apache-2.0
"""A segmentation loss over what each sample's data set labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PartialLabelLoss(nn.Module):
    """A segmentation loss taken, for each sample, over the structures that its data set labels.

    The softmax inside ``loss`` runs over background and those structures alone, so that a set which labels heads never
    calls another set's nerves background. What the organs in sight cannot show, by ``organs``, is absent for certain:
    the negative logarithm of the probability that a pixel is none of that is added, over all structures' softmax.
    Samples of one label table are taken together; the result is the sum over samples, each counting once.

    Args:
        loss: any loss of (logits (N, K, H, W), label (N, 1, H, W)) that averages over N, for example MONAI's
            ``DiceCELoss(softmax=True, to_onehot_y=True)`` with ``batch=False``.
        organs: the structures (indices) that each organ shows; an organ is in sight when the set labels one of them.
            Without organs nothing is absent.
    """

    def __init__(self, loss: nn.Module, organs: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        self.loss = loss
        self.organs = [frozenset(organ) for organ in organs]

    def forward(self, logits: Tensor, label: Tensor, labeled: Tensor) -> Tensor:
        """Sum over the samples of their loss.

        Args:
            logits: (N, C, H, W), all structures.
            label: (N, 1, H, W) structure indices in [0, C).
            labeled: (N, C) bool, the structures that the sample's set labels; column 0 is background.
        """
        total = logits[:0].float().sum()  # 0, of which a gradient can be taken also where there is no sample
        for row in torch.unique(labeled, dim=0):
            samples = (labeled == row).all(1).nonzero()[:, 0]
            channels = row.nonzero()[:, 0]
            local = row.cumsum(0) - 1  # structure index -> its place among the labeled ones
            target = local[label[samples].long()]
            selected = logits[samples].float()
            loss = self.loss(selected[:, channels], target)
            possible = self._possible(channels.tolist(), selected.shape[1])
            if len(possible) < selected.shape[1]:
                loss = loss + (selected.logsumexp(1) - selected[:, possible].logsumexp(1)).mean()
            total = total + len(samples) * loss
        return total

    def _possible(self, labeled: Sequence[int], count: int) -> list[int]:
        """Those of ``count`` structures that an image may show whose set labels these."""
        in_sight = [organ for organ in self.organs if not organ.isdisjoint(labeled)]
        elsewhere = frozenset().union(*self.organs) if in_sight else frozenset()
        absent = elsewhere.difference(labeled, *in_sight)
        return [index for index in range(count) if index not in absent]
