# SPDX-License-Identifier: Apache-2.0
"""Losses over what each sample's data set labels: partly labeled segmentation and several class heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class MultiTaskLoss(nn.Module):
    """Weighted sum of the mean segmentation loss and the mean cross-entropy of the class heads.

    Each mean runs over the samples that carry the label, over all processes: with several processes the average of
    the processes' gradients equals the gradient of one process with the joined batch. Samples with a simulated user
    come on top: they add to the sum and do not count, so that what the others weigh does not depend on them.

    Args:
        segmentation: loss of one label table, see :class:`PartialLabelLoss`.
        label_sets: class heads, name -> class names, in the order of the columns of ``cls``.
        segmentation_weight: factor of the segmentation mean.
        classification_weight: factor of the classification mean.
        class_weights: optional label set -> one weight per class (rare classes up).
        structures: names of the segmentation channels, for ``organ_structures``.
        organ_structures: position -> names of its structures; those of other organs are trained to be absent.

    Raises:
        ValueError: when class weights name an unknown label set or their number is wrong, or an organ an unknown
            structure.
    """

    def __init__(
        self,
        segmentation: nn.Module,
        *,
        label_sets: Mapping[str, Sequence[str]],
        segmentation_weight: float = 1.0,
        classification_weight: float = 1.0,
        class_weights: Mapping[str, Sequence[float]] | None = None,
        structures: Sequence[str] = (),
        organ_structures: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        organs = []
        for organ, names in (organ_structures or {}).items():
            if not set(names) <= set(structures):
                raise ValueError(
                    f"organ_structures must name structures {list(structures)}, got {organ!r}: {list(names)};"
                    " correct the config."
                )
            organs.append([list(structures).index(name) for name in names])
        self.segmentation = PartialLabelLoss(segmentation, organs)
        self.label_sets = list(label_sets)
        self.segmentation_weight = segmentation_weight
        self.classification_weight = classification_weight
        weights = dict(class_weights or {})
        for name, values in weights.items():
            expected = len(label_sets.get(name, ()))
            if len(values) != expected:
                raise ValueError(
                    f"class_weights of {name!r} must be {expected} numbers, one per class of the label set, "
                    f"got {list(values)}; correct class_weights in the config."
                )
        for name, classes in label_sets.items():
            values = weights.get(name, [1.0] * len(classes))
            self.register_buffer(f"weight_{name}", torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of a batch.

        Args:
            pred: ``seg`` (N, C, H, W), logits of the N samples with a mask, in batch order, and ``cls_<label set>``
                (B, K), logits of all B samples.
            target: ``label`` (B, 1, H, W), ``labeled`` (B, C) bool, ``cls`` (B, number of label sets), -1 for none;
                optionally ``guided`` (B,) bool, samples with a simulated user.
        """
        rows = target["labeled"].any(1)
        seg = self.segmentation(pred["seg"], target["label"][rows], target["labeled"][rows])
        cls = seg.new_zeros(())
        for column, name in enumerate(self.label_sets):
            classes = target["cls"][:, column]
            logits, weight = pred[f"cls_{name}"].float(), self.get_buffer(f"weight_{name}")
            cls = cls + F.cross_entropy(logits, classes, weight, ignore_index=-1, reduction="sum")
        counted = rows & ~target["guided"] if "guided" in target else rows
        counts = torch.stack([counted.sum(), (target["cls"] >= 0).sum()]).to(torch.float32)
        if idist.get_world_size() > 1:
            counts = idist.all_reduce(counts) / idist.get_world_size()
        counts = counts.clamp(min=1.0 / idist.get_world_size())
        total: Tensor = self.segmentation_weight * seg / counts[0] + self.classification_weight * cls / counts[1]
        return total
