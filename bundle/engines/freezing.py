# SPDX-License-Identifier: Apache-2.0
"""Parts of a network that do not learn, or not yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ignite.engine import Engine, Events
from timm.models import group_parameters
from torch import nn
from torch.utils.hooks import RemovableHandle


class Freezing:
    """Keeps parameters as they are, for all of a training or until a share of it is done.

    Parts whose parameters are all frozen run as in evaluation: no dropout, no stochastic depth, and batch norm keeps
    its statistics. MONAI's ``freeze_layers`` leaves these on, and knows no time.

    Args:
        network: with ``group_matcher`` where layers unfreeze.
        frozen: regular expression; a parameter whose name it matches from the start on never learns; None: none.
        unfreeze_share: share of the iterations, in [0, 1), after which all layers of the encoder learn: the last one
            begins after an equal part of it, the one before after two parts, and so on (progressive unfreezing, Howard
            and Ruder 2018, ULMFiT, section 3.3); 0: from the start on.

    Raises:
        ValueError: when the share is out of its range, or ``frozen`` is no regular expression, matches no parameter or
            leaves none.
    """

    def __init__(self, network: nn.Module, *, frozen: str | None = None, unfreeze_share: float = 0.0) -> None:
        if isinstance(unfreeze_share, str) or not 0 <= unfreeze_share < 1:
            raise ValueError(
                f"unfreeze_share must be a share of the training in [0, 1), got {unfreeze_share!r}; correct it."
            )
        self.network = network
        self.never = _matching(network, frozen) if frozen is not None else set()
        self.begins = _begins(network, unfreeze_share) if unfreeze_share else {}
        self.frozen: set[str] | None = None
        self.hooks: list[RemovableHandle] = []

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Freezes and unfreezes for this iteration; a resumed run needs no state."""
        state = engine.state
        done = (state.iteration - 1) / max(1, (state.max_epochs or 0) * (state.epoch_length or 0))
        frozen = self.never | {name for name, begin in self.begins.items() if done < begin}
        if frozen == self.frozen:
            return
        self.frozen = frozen
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for hook in self.hooks:
            hook.remove()
        self.hooks = [part.register_forward_pre_hook(_evaluates) for part in _still(self.network)]


def _matching(network: nn.Module, expression: str) -> set[str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"frozen must be a regular expression, got {expression!r}: {error}; correct it.") from None
    names = {name for name, _ in network.named_parameters()}
    found = {name for name in names if pattern.match(name)}
    if not found or found == names:
        which = "all" if found else "none"
        raise ValueError(
            f"frozen must match some of the network's parameters, such as {min(names)}, got {expression!r}, which "
            f"matches {which}; correct it."
        )
    return found


def _begins(network: nn.Module, share: float) -> dict[str, float]:
    """Parameter of the encoder's layers -> share of the training after which it learns."""
    layers = group_parameters(network, network.group_matcher(coarse=True), reverse=True)  # type: ignore[operator]
    last = max(layers.values())  # what follows the encoder
    return {name: share * (last - layer) / last for name, layer in layers.items() if layer < last}


def _still(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts whose parameters are all frozen."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
        return
    for child in module.children():
        yield from _still(child)


def _evaluates(module: nn.Module, inputs: Any) -> None:
    module.eval()
