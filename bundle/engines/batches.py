# SPDX-License-Identifier: Apache-2.0
"""From a batch to the network's outputs in training, with autocast and several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bundle.engines.synchronized import SynchronizedBatchNorm2d, synchronize
from bundle.tasks import Task
from bundle.tasks.targets import each, mapped
from bundle.vocabulary import switch


class PrepareBatch:
    """Splits a collated training batch into (image, target, (), {"prompt": ..., "mapped": ...}).

    The target is the dictionary that :class:`bundle.tasks.MultiTaskLoss` takes.

    Args:
        tasks: the declared tasks.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Any, tuple[()], dict[str, Tensor]]:
        """The batch on ``device``."""

        def move(value: Tensor) -> Tensor:
            return value.to(device=device, non_blocking=non_blocking, **kwargs)

        image = move(batchdata["image"])
        target: dict[str, Any] = {"targets": {name: each(t, move) for name, t in batchdata["targets"].items()}}
        if "mixed" in batchdata:
            others = {name: each(t, move) for name, t in batchdata["mixed"]["targets"].items()}
            target["mixed"] = {**batchdata["mixed"], "targets": others}
        if "guided" in batchdata:
            target["guided"] = move(batchdata["guided"])
        rows = mapped(self.tasks, target["targets"], len(image)).to(image.device)
        return image, target, (), {"prompt": move(batchdata["prompt"]), "mapped": rows}


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


class TrainingNetwork(nn.Module):
    """The network as the trainer sees it: all heads in one ``forward`` (one graph for DistributedDataParallel).

    The decoder runs only on the samples that need its map: its normalization statistics and its time belong to them.
    With synchronized batch norm it also runs on none of them, since all processes must take part.
    Checkpoints hold the plain network, not this wrapper.

    Args:
        network: a :class:`bundle.networks.UPerConvNeXt`.
        device: where it trains; decides the precision of ``amp``.
        amp: autocast to bfloat16 where the hardware computes in it (:func:`autocast_dtype`).
    """

    def __init__(self, network: nn.Module, *, device: torch.device | str, amp: bool = True) -> None:
        super().__init__()
        self.network: Any = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device_type = torch.device(device).type
        self.dtype = autocast_dtype(amp, device)
        self.synchronized = any(isinstance(m, SynchronizedBatchNorm2d) for m in network.modules())

    def forward(self, image: Tensor, prompt: Tensor | None = None, mapped: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of all heads.

        Args:
            image: (B, 3, H, W), normalized, or (B, 5, H, W) with guidance.
            prompt: (B, P) or None.
            mapped: (B,) bool, rows that need the decoder's map. None: all do.

        Returns:
            Head -> logits of all rows, or, of a head that reads the map, of those that need it, in order.
        """
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device_type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            levels, feature, plain = self.network.encode(image, prompt)
            vectors = [name for name in self.network.head_names if name not in self.network.map_heads]
            outputs = self.network.answer(feature, feature, plain, vectors)
            rows: Any = slice(None) if mapped is None else mapped
            levels, feature, plain = [level[rows] for level in levels], feature[rows], plain[rows]
            return {**self._read_maps(levels, feature, plain), **outputs}

    def _read_maps(self, levels: list[Tensor], feature: Tensor, plain: Tensor) -> dict[str, Tensor]:
        """Logits of the heads that read the decoder's map; on no rows, none of them gets a gradient."""
        names = self.network.map_heads
        if len(levels[0]) or self.synchronized:
            return dict(self.network.answer(self.network.decode(levels), feature, plain, names))
        fine = levels[0].new_zeros(0, self.network.decoder.channels, *levels[0].shape[2:])
        with torch.no_grad():
            return dict(self.network.answer(fine, feature, plain, names))


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
