# SPDX-License-Identifier: Apache-2.0
"""Learning rates: by layer, and over the time of a training."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(network: nn.Module, *, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Parameters for an optimizer: biases, norms and gates without weight decay, and lower rates for early layers.

    The last layer of the encoder learns at ``layer_decay`` times the rate of what follows it, each layer before it at
    ``layer_decay`` times the rate of the next: what an encoder learned in a pretraining stays where it is most general
    (Clark et al. 2020, ELECTRA, section 3; Bao et al. 2022, BEiT). A group says its factor as ``lr_scale``, which
    :func:`warmup_polynomial` applies. The layers are those of the network's ``group_matcher``, as in timm.

    Args:
        network: with ``group_matcher``, where ``layer_decay`` is not 1.
        weight_decay: of the other parameters.
        layer_decay: in (0, 1]; 1: one rate for all.

    Raises:
        ValueError: when ``layer_decay`` is out of its range, or the network does not tell its layers.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}; correct it.")
    if layer_decay == 1:
        return list(param_groups_weight_decay(network, weight_decay))
    if not hasattr(network, "group_matcher"):
        raise ValueError(f"layer_decay needs a network with group_matcher, got {type(network).__name__}; set it to 1.")
    return list(param_groups_layer_decay(network, weight_decay, layer_decay=layer_decay))


def warmup_polynomial(
    optimizer: Optimizer, *, loader: Sized, epochs: int, warmup_epochs: float = 1.0, power: float = 0.9
) -> LambdaLR:
    """A schedule to be stepped once per iteration: linear warm-up, then ``(1 - t) ** power`` down to zero.

    Args:
        optimizer: its learning rates are the peak, times ``lr_scale`` of groups that have it.
        loader: training loader; its length is the number of iterations of an epoch.
        epochs: length of the training in epochs.
        warmup_epochs: length of the warm-up in epochs, at most a tenth of the training; 0 for none.
        power: 0.9 is the paper's.
    """
    total = max(1, epochs * len(loader))
    warmup = round(min(warmup_epochs * len(loader), 0.1 * total))

    def scaled(scale: float) -> Callable[[int], float]:
        def factor(step: int) -> float:
            if step < warmup:
                return scale * (step + 1) / (warmup + 1)
            return float(scale * (1 - min(1.0, (step - warmup) / max(1, total - warmup))) ** power)

        return factor

    return LambdaLR(optimizer, [scaled(group.get("lr_scale", 1.0)) for group in optimizer.param_groups])
