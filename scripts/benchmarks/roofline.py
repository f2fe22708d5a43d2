# SPDX-License-Identifier: Apache-2.0
"""What the machine can do at most, and what a network asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Precision -> bytes per value."""


@dataclass(frozen=True)
class Machine:
    """Measured peaks.

    Attributes:
        operations: precision -> floating-point or integer operations per second (a multiply-add counts two).
        bandwidth: bytes per second, read and written, of a copy that no cache holds.
    """

    operations: dict[str, float]
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """What one forward pass asks for.

    Attributes:
        operations: of convolutions and matrix products; a multiply-add counts two.
        values: numbers moved if each convolution and linear layer reads its weights and input and writes its output
            once; what lies between them is taken for free.
    """

    operations: int
    values: int

    def seconds(self, machine: Machine, precision: str) -> float:
        """The least time of a pass: that of its operations or of its bytes, whichever is more."""
        compute = self.operations / machine.operations[precision]
        return max(compute, self.values * WIDTHS[precision] / machine.bandwidth)


def measure_machine(*, side: int = 1024, rounds: int = 7) -> Machine:
    """The best rates of PyTorch's own libraries, on its present number of threads.

    Args:
        side: of the square matrices.
        rounds: the fastest of so many counts.
    """
    image = torch.randn(1, side, 32, side // 32).to(memory_format=torch.channels_last)
    weight = torch.randn(side, side, 1, 1)
    left = torch.randint(-128, 127, (side, side), dtype=torch.int8)
    products: dict[str, Callable[[], Tensor]] = {"int8": lambda: torch._int_mm(left, left)}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        x, w = image.to(dtype), weight.to(dtype)
        products[name] = _convolution(x, w)
    with torch.inference_mode():
        operations = {name: 2 * side**3 / _fastest(products[name], rounds) for name in WIDTHS}
        source = torch.zeros(64 * 2**20)  # 256 MiB
        target = torch.zeros_like(source)
        seconds = _fastest(lambda: target.copy_(source), rounds)
    return Machine(operations=operations, bandwidth=2 * source.numel() * source.element_size() / seconds)


def measure_work(network: nn.Module, *inputs: Tensor) -> Work:
    """Operations and values of one forward pass."""
    values = 0

    def count(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        nonlocal values
        values += given[0].numel() + result.numel() + sum(p.numel() for p in module.parameters(recurse=False))

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Work(operations=counter.get_total_flops(), values=values)


def _convolution(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    return lambda: torch.nn.functional.conv2d(x, weight)


def _fastest(work: Callable[[], Any], rounds: int) -> float:
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
