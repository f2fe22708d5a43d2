# SPDX-License-Identifier: Apache-2.0
"""From a batch to the network's outputs: in training with autocast and several processes, elsewhere with prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from bundle.vocabulary import NEUTRAL_POSITION, UNKNOWN, encode_prompt, switch

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

    targets = {key: move(key) for key in ("label", "labeled", "cls")}
    return move("image"), targets, (), {"prompt": move("prompt"), "labeled": targets["labeled"]}


def prepare_evaluation(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Any, tuple[()], dict[str, Tensor]]:
    """Splits a collated batch into (image, mask or None, (), {"prompt": ...}) for evaluation and inference."""
    image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
    prompt = {} if "prompt" not in batchdata else {"prompt": batchdata["prompt"].to(device=device)}
    return image, batchdata.get("label"), (), prompt


def autocast_dtype(amp: bool, device: torch.device | str) -> torch.dtype | None:
    """The reduced precision that pays on ``device``: bfloat16 where the hardware computes in it, else None."""
    if not amp:
        return None
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if capable.get("avx512_bf16") or capable.get("amx_bf16") else None


class TrainingNetwork(nn.Module):
    """The network as the trainer sees it: all heads in one ``forward`` (one graph for DistributedDataParallel).

    The decoder runs on the samples with a mask alone: its normalization statistics and its time belong to them.
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
        self.dtype = autocast_dtype(switch(amp, "amp"), device)

    def forward(self, image: Tensor, prompt: Tensor | None = None, labeled: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of all heads.

        Args:
            image: (B, 3, H, W), normalized.
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
            if len(levels[0]):
                seg = self.network.decode(levels)
            else:
                seg = image.new_zeros(0, labeled.shape[1] if labeled is not None else 0, *image.shape[2:])
            return {"seg": seg, **outputs}


def distributed_network(network: nn.Module, *, device: torch.device | str, amp: bool = True) -> nn.Module:
    """The training network on this process's device, its gradients averaged over all processes.

    Batch norm is synchronized on GPUs. A head without labels in a process's batch is allowed.
    """
    device = torch.device(device)
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return nn.parallel.DistributedDataParallel(
        TrainingNetwork(network, device=device, amp=amp),
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,
    )


class PromptedInferer(Inferer):
    """Runs ``network.predict`` with a prompt; a structure that the prompted organ does not have gets no probability.

    Args:
        structures: names of the segmentation channels, background first.
        positions: the position table.
        organ_structures: position -> names of its structures; a known position that is not listed has none.
        position: prompts used where the call brings none (MONAI Label, a flag on the command line).
        nature: see ``position``.
        task: see ``position``.

    Raises:
        ValueError: when a prompt or a name in ``organ_structures`` is in no table.
    """

    def __init__(
        self,
        structures: Sequence[str],
        positions: Sequence[str],
        *,
        organ_structures: Mapping[str, Sequence[str]],
        position: str | Sequence[str] = UNKNOWN,
        nature: str | Sequence[str] = UNKNOWN,
        task: str | Sequence[str] = UNKNOWN,
    ) -> None:
        # MONAI Label sends the whole list of choices when the user picks none: the first is the default
        chosen = {"position": position, "nature": nature, "task": task}
        self.prompt = {k: v if isinstance(v, str) else next(iter(v)) for k, v in chosen.items()}
        self.code = torch.tensor([encode_prompt(self.prompt, positions)])
        self.num_positions = len(positions)
        self.allowed = torch.zeros(len(positions), len(structures), dtype=torch.bool)
        self.allowed[:, 0] = True
        self.allowed[list(positions).index(NEUTRAL_POSITION)] = True
        for organ, names in organ_structures.items():
            if organ not in positions or not set(names) <= set(structures):
                raise ValueError(
                    f"organ_structures must map positions {list(positions)} to structures {list(structures)}, "
                    f"got {organ!r}: {list(names)}; correct the config."
                )
            for name in names:
                self.allowed[list(positions).index(organ), list(structures).index(name)] = True

    def __call__(
        self, inputs: Tensor, network: nn.Module, *args: Any, prompt: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Logits {"seg": (B, C, H, W), "cls_<label set>": (B, K)} of images (B, 3, H, W), prompts (B, P) or none."""
        code = self.code.expand(len(inputs), -1) if prompt is None else prompt
        code = code.to(inputs.device)
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        outputs: dict[str, Tensor] = dict(network.predict(image, code))  # type: ignore[operator]
        allowed = self.allowed.to(inputs.device)[code[:, : self.num_positions].argmax(1)]
        outputs["seg"] = outputs["seg"].masked_fill(~allowed[:, :, None, None], _NO_STRUCTURE)
        return outputs
