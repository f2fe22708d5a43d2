# SPDX-License-Identifier: Apache-2.0
"""From images to the network's outputs in evaluation and inference, with prompts and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from bundle.tasks import Task
from bundle.tasks.masks import NO_STRUCTURE
from bundle.vocabulary import NEUTRAL_POSITION, encode_prompt

_CERTAIN = 4.0
"""Margin over the background where the user said what is there: a probability of .98."""


class PromptedInferer(Inferer):
    """Runs ``network.predict`` with a prompt; the tasks leave out what the prompted organ cannot show.

    Where the image brings guidance (clicks, boxes), each guided structure is segmented against the background in a pass
    of its own, and the automatic result keeps to the other structures and to what the guided ones leave over. Who names
    a structure also says which organ it is: without a position, no structure of another organ is shown then.

    Args:
        tasks: the declared tasks; one of them at most takes clicks.
        positions: the position table.
        image_channels: channels of the image proper; guidance follows them.
        side: of the square that the network sees, in pixels; an image that is higher holds several, one below the
            other: panels of one frame. None: images of any size.
    """

    def __init__(
        self, tasks: Sequence[Task], positions: Sequence[str], *, image_channels: int = 3, side: int | None = None
    ) -> None:
        self.side = side
        self.tasks, self.positions, self.image_channels = list(tasks), list(positions), image_channels
        self.neutral = torch.tensor([encode_prompt({}, positions)])
        self.guided: Any = next((task for task in self.tasks if task.guided), None)

    def __call__(
        self, inputs: Tensor, network: nn.Module, *args: Any, prompt: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Head -> logits (B, ...), or (B, P, ...) of images with P panels.

        Args:
            inputs: images (B, 3, H, W), with panels (B, 3, P * H, W), or (B, 3 + 2 * C, H, W) with guidance: for each
                structure, and first for one that was not named, what is wanted and what is not (``bundle.guidance``).
            network: a :class:`bundle.networks.UPerConvNeXt`.
            args: not used.
            prompt: (B, P); None takes ``inputs.meta["prompt"]``, and without that the neutral prompt.
            kwargs: not used.
        """
        if prompt is None and isinstance(inputs, MetaTensor):
            prompt = inputs.meta.get("prompt")
        code = (self.neutral if prompt is None else prompt).reshape(-1, self.neutral.shape[1]).to(inputs.device)
        code = code.expand(len(inputs), -1)
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if self.side is not None and image.shape[2] > self.side:
            panels = torch.stack(torch.split(image, self.side, 2), 1)
            rows = code.repeat_interleave(panels.shape[1], 0)
            answers = self(panels.flatten(0, 1), network, prompt=rows)
            return {name: logits.reshape(*panels.shape[:2], *logits.shape[1:]) for name, logits in answers.items()}
        image, guidance = image[:, : self.image_channels], image[:, self.image_channels :]
        outputs: dict[str, Tensor] = dict(network.predict(image, code))  # type: ignore[operator]
        positions = [self.positions[place] for place in code[:, : len(self.positions)].argmax(1).tolist()]
        for task in self.tasks:
            if task.name in outputs:
                outputs[task.name] = task.restrict(outputs[task.name], positions)
        if guidance.shape[1] and self.guided is not None:
            self._guide(outputs[self.guided.name], image, guidance.unflatten(1, (-1, 2)), network, code, positions)
        return outputs

    def _guide(
        self,
        logits: Tensor,
        image: Tensor,
        guidance: Tensor,
        network: nn.Module,
        code: Tensor,
        positions: Sequence[str],
    ) -> None:
        """Replaces rows of the automatic logits (B, C, H, W) whose images bring guidance (B, C, 2, H, W)."""
        rows, slots = guidance.flatten(2).any(2).nonzero(as_tuple=True)
        guided = network(torch.cat([image[rows], guidance[rows, slots]], 1), code[rows])
        for row in sorted(set(rows.tolist())):
            mine = rows == row
            named = slots[mine & (slots > 0)]
            allowed = self.guided.allowed(positions[row])
            if positions[row] == NEUTRAL_POSITION and len(named):
                allowed = torch.stack([self.guided.beside(slot) for slot in named.tolist()]).any(0)
            logits[row] = join_guided(
                logits[row], guided[mine], slots[mine], guidance=guidance[row], allowed=allowed.to(logits.device)
            )


def _heart(said: Tensor) -> Tensor:
    """Where a guidance channel (H, W) says so for certain (1, no former mask), 3 pixels and more from where not."""
    certain: Tensor = -F.max_pool2d(-(said == 1).float()[None], kernel_size=7, stride=1, padding=3)[0] > 0
    return certain


def join_guided(automatic: Tensor, guided: Tensor, slots: Tensor, *, guidance: Tensor, allowed: Tensor) -> Tensor:
    """Logits (C, H, W) of one image in which guided structures go before automatic ones.

    The guided structures' margins over the background compete by softmax; what they leave over is shared by the
    automatic result without those structures. What the user said holds whatever the network thinks: the middle of a
    click is the structure, or is not, and nothing of it lies more than 3 pixels outside a box
    (``bundle.tasks.Masks`` then holds to both to the pixel). Who names no structure asks for one object:
    then nothing else is shown.

    Args:
        automatic: (C, H, W) logits without guidance.
        guided: (K, C, H, W) logits of the passes with guidance.
        slots: (K,) the structure of each pass; 0: not named, the one is taken that the pass finds where it was wanted,
            or anywhere it was not unwanted when nothing was said to be wanted.
        guidance: (C, 2, H, W), slot -> wanted, unwanted.
        allowed: (C,) bool, structures that the organ has; a named one goes before that, and so does any one where the
            organ has none.
    """
    margins: dict[int, Tensor] = {}
    for logits, asked in zip(guided, slots.tolist(), strict=True):
        slot = asked
        if slot == 0:
            wanted, unwanted = guidance[0]
            place = wanted if wanted.any() else 1 - unwanted
            possible = allowed if allowed[1:].any() else torch.ones_like(allowed)
            found = logits.masked_fill(~possible[:, None, None], NO_STRUCTURE).softmax(0)
            mass = (found * place).sum((1, 2))[1:].masked_fill(~possible[1:], -1.0)
            slot = 1 + int(mass.argmax())
        margins[slot] = logits[slot] - logits[0]
        wanted, unwanted = guidance[asked]
        margins[slot] = torch.where(_heart(wanted), margins[slot].clamp(min=_CERTAIN), margins[slot])
        margins[slot] = torch.where(_heart(unwanted), margins[slot].clamp(max=-_CERTAIN), margins[slot])
    named = list(margins)
    shares = torch.stack([torch.zeros_like(automatic[0]), *margins.values()]).log_softmax(0)
    rest = automatic.masked_fill(~allowed[:, None, None], NO_STRUCTURE)
    rest[named if slots.any() else slice(1, None)] = NO_STRUCTURE
    joined: Tensor = rest.log_softmax(0) + shares[0]
    joined[named] = shares[1:]
    return joined
