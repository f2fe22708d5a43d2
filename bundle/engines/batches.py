# SPDX-License-Identifier: Apache-2.0
"""From a batch to the network's outputs: in training with autocast and several processes, elsewhere with prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from bundle.engines.synchronized import SynchronizedBatchNorm2d, synchronize
from bundle.vocabulary import NEUTRAL_POSITION, encode_prompt, organ_table, switch, unclaimed_structures

logger = logging.getLogger(__name__)

_NO_STRUCTURE = -1e4
"""Logit of a structure that the prompted organ does not have: its softmax is exactly 0 in float32, and unlike -inf
it survives interpolation."""


def prepare_batch(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Any, tuple[()], dict[str, Tensor]]:
    """Splits a collated training batch into (image, targets, (), {"prompt": ..., "labeled": ...}).

    The targets are the dictionary that :class:`bundle.losses.MultiTaskLoss` takes.
    """

    def move(key: str) -> Tensor:
        value: Tensor = batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs)
        return value

    targets = {key: move(key) for key in ("label", "labeled", "cls", "guided") if key in batchdata}
    return move("image"), targets, (), {"prompt": move("prompt"), "labeled": targets["labeled"]}


def prepare_evaluation(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Any, tuple[()], dict[str, Tensor]]:
    """Splits a collated batch into (image, mask or None, (), {"prompt": ...}) for evaluation and inference."""
    image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
    prompt = {} if "prompt" not in batchdata else {"prompt": batchdata["prompt"].to(device=device)}
    return image, batchdata.get("label"), (), prompt


def prepare_items(
    items: Sequence[Mapping[str, Any]],
    device: torch.device | str | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None, tuple[()], dict[str, Tensor]]:
    """Stacks what the network needs of items that were not collated into (image, None, (), {"prompt": ...})."""
    image, prompt = (
        torch.stack([item[key].as_subclass(torch.Tensor) for item in items]) for key in ("image", "prompt")
    )
    return image.to(device=device, non_blocking=non_blocking, **kwargs), None, (), {"prompt": prompt.to(device=device)}


def autocast_dtype(amp: bool | str, device: torch.device | str) -> torch.dtype | None:
    """The reduced precision that pays on ``device``: bfloat16 where the hardware computes in it, else None.

    On a CPU that is AVX-512 with bfloat16 or AMX; ``ATEN_CPU_CAPABILITY=avx2`` switches it off like PyTorch's own.
    """
    if not switch(amp, "amp"):
        return None
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    computes = capable.get("avx512_bf16") or capable.get("amx_bf16")
    return torch.bfloat16 if computes and torch.backends.cpu.get_cpu_capability() == "AVX512" else None


_CERTAIN = 4.0
"""Margin over the background where the user said what is there: a probability of .98."""


class TrainingNetwork(nn.Module):
    """The network as the trainer sees it: all heads in one ``forward`` (one graph for DistributedDataParallel).

    The decoder runs on the samples with a mask alone: its normalization statistics and its time belong to them. With
    synchronized batch norm it also runs on none of them, since all processes must take part.
    Checkpoints hold the plain network, not this wrapper.

    Args:
        network: a :class:`bundle.networks.UPerConvNeXt`.
        device: where it trains; decides the precision of ``amp``.
        amp: autocast to bfloat16 where the hardware computes in it (:func:`autocast_dtype`).
    """

    def __init__(self, network: nn.Module, *, device: torch.device | str, amp: bool = True) -> None:
        super().__init__()
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device_type = torch.device(device).type
        self.dtype = autocast_dtype(amp, device)
        self.synchronized = any(isinstance(m, SynchronizedBatchNorm2d) for m in network.modules())

    def forward(self, image: Tensor, prompt: Tensor | None = None, labeled: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of all heads.

        Args:
            image: (B, 3, H, W), normalized, or (B, 5, H, W) with guidance.
            prompt: (B, P) or None.
            labeled: (B, C) bool; rows without a True get no segmentation. None: all rows do.

        Returns:
            ``seg`` (N, C, H, W) of the N rows with a mask, in order, and ``cls_<label set>`` (B, K).
        """
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device_type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            levels, feature = self.network.encode(image, prompt)
            if labeled is not None:
                rows = labeled.any(1)
                levels = [level[rows] for level in levels]
            outputs = dict(self.network.classify(feature))
            if len(levels[0]) or self.synchronized:
                seg = self.network.decode(levels)
            else:
                seg = image.new_zeros(0, labeled.shape[1] if labeled is not None else 0, *image.shape[2:])
            return {"seg": seg, **outputs}


def distributed_network(network: nn.Module, *, device: torch.device | str, amp: bool = True) -> nn.Module:
    """The training network on this process's device, its gradients averaged over all processes.

    Batch norm is synchronized. A process's batch may lack masks, or the labels of a head.
    """
    device = torch.device(device)
    return nn.parallel.DistributedDataParallel(
        TrainingNetwork(synchronize(network), device=device, amp=amp),
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,
    )


class PromptedInferer(Inferer):
    """Runs ``network.predict`` with a prompt; a structure that the prompted organ does not have gets no probability.

    Where the image brings guidance (clicks, boxes), each guided structure is segmented against the background in a pass
    of its own, and the automatic result keeps to the other structures and to what the guided ones leave over. Who names
    a structure also says which organ it is: without a position, no structure of another organ is shown then.

    Args:
        structures: names of the segmentation channels, background first.
        positions: the position table.
        organ_structures: position -> names of its structures, see :func:`bundle.vocabulary.organ_table`.
        image_channels: channels of the image proper; guidance follows them.

    Raises:
        ValueError: when a name in ``organ_structures`` is in no table.
    """

    def __init__(
        self,
        structures: Sequence[str],
        positions: Sequence[str],
        *,
        organ_structures: Mapping[str, Sequence[str]] | None,
        image_channels: int = 3,
    ) -> None:
        self.neutral = torch.tensor([encode_prompt({}, positions)])
        self.no_position = list(positions).index(NEUTRAL_POSITION)
        self.num_positions = len(positions)
        self.image_channels = image_channels
        self.allowed = torch.zeros(len(positions), len(structures), dtype=torch.bool)
        self.allowed[:, 0] = True
        table = organ_table(organ_structures, positions=positions, structures=structures)
        for row, position in enumerate(positions):
            self.allowed[row, table[position]] = True
        self.together = torch.eye(len(structures), dtype=torch.bool)  # structures of one organ
        self.together[:, 0] = True
        for organ in organ_structures or positions:
            for index in table[organ]:
                self.together[index, table[organ]] = True
        if free := unclaimed_structures(organ_structures, structures=structures):
            logger.warning(f"no organ in organ_structures shows {free}: they are found only without a position.")

    def __call__(
        self, inputs: Tensor, network: nn.Module, *args: Any, prompt: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Logits {"seg": (B, C, H, W), "cls_<label set>": (B, K)}.

        Args:
            inputs: images (B, 3, H, W), or (B, 3 + 2 * C, H, W) with guidance: for each structure, and first for one
                that was not named, what is wanted and what is not (``bundle.guidance``).
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
        image, guidance = image[:, : self.image_channels], image[:, self.image_channels :]
        outputs: dict[str, Tensor] = dict(network.predict(image, code))  # type: ignore[operator]
        position = code[:, : self.num_positions].argmax(1)
        allowed = self.allowed.to(inputs.device)[position]
        outputs["seg"] = outputs["seg"].masked_fill(~allowed[:, :, None, None], _NO_STRUCTURE)
        if guidance.shape[1]:
            guidance = guidance.unflatten(1, (-1, 2))
            rows, slots = guidance.flatten(2).any(2).nonzero(as_tuple=True)
            guided = network(torch.cat([image[rows], guidance[rows, slots]], 1), code[rows])
            for row in rows.unique().tolist():
                mine = rows == row
                named = slots[mine & (slots > 0)]
                if position[row] == self.no_position and len(named):
                    allowed[row] = self.together.to(inputs.device)[named].any(0)
                outputs["seg"][row] = join_guided(
                    outputs["seg"][row], guided[mine], slots[mine], guidance=guidance[row], allowed=allowed[row]
                )
        return outputs


def _heart(said: Tensor) -> Tensor:
    """Where a guidance channel (H, W) says so for certain (1, no former mask), 3 pixels and more from where not."""
    certain: Tensor = -F.max_pool2d(-(said == 1).float()[None], kernel_size=7, stride=1, padding=3)[0] > 0
    return certain


def join_guided(automatic: Tensor, guided: Tensor, slots: Tensor, *, guidance: Tensor, allowed: Tensor) -> Tensor:
    """Logits (C, H, W) of one image in which guided structures go before automatic ones.

    The guided structures' margins over the background compete by softmax; what they leave over is shared by the
    automatic result without those structures. What the user said holds whatever the network thinks: the middle of a
    click is the structure, or is not, and nothing of it lies more than 3 pixels outside a box
    (``bundle.transforms.ToLabelMapd`` then holds to both to the pixel). Who names no structure asks for one object:
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
            found = logits.masked_fill(~possible[:, None, None], _NO_STRUCTURE).softmax(0)
            mass = (found * place).sum((1, 2))[1:].masked_fill(~possible[1:], -1.0)
            slot = 1 + int(mass.argmax())
        margins[slot] = logits[slot] - logits[0]
        wanted, unwanted = guidance[asked]
        margins[slot] = torch.where(_heart(wanted), margins[slot].clamp(min=_CERTAIN), margins[slot])
        margins[slot] = torch.where(_heart(unwanted), margins[slot].clamp(max=-_CERTAIN), margins[slot])
    named = list(margins)
    shares = torch.stack([torch.zeros_like(automatic[0]), *margins.values()]).log_softmax(0)
    rest = automatic.masked_fill(~allowed[:, None, None], _NO_STRUCTURE)
    rest[named if slots.any() else slice(1, None)] = _NO_STRUCTURE
    joined: Tensor = rest.log_softmax(0) + shares[0]
    joined[named] = shares[1:]
    return joined
