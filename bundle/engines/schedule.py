# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedule."""

from __future__ import annotations

from collections.abc import Sized

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_polynomial(
    optimizer: Optimizer, *, loader: Sized, epochs: int, warmup_epochs: float = 1.0, power: float = 0.9
) -> LambdaLR:
    """A schedule to be stepped once per iteration: linear warm-up, then ``(1 - t) ** power`` down to zero.

    Args:
        optimizer: its learning rates are the peak.
        loader: training loader; its length is the number of iterations of an epoch.
        epochs: length of the training in epochs.
        warmup_epochs: length of the warm-up in epochs, at most a tenth of the training; 0 for none.
        power: 0.9 is the paper's.
    """
    total = max(1, epochs * len(loader))
    warmup = round(min(warmup_epochs * len(loader), 0.1 * total))

    def factor(step: int) -> float:
        if step < warmup:
            return float((step + 1) / (warmup + 1))
        return float((1 - min(1.0, (step - warmup) / max(1, total - warmup))) ** power)

    return LambdaLR(optimizer, factor)
