# SPDX-License-Identifier: Apache-2.0
"""Where the time goes: groups of operators of the paper's network, before and after, in a forward pass and a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bundle.engines.runtimes import openvino_core
from bundle.export.formats import example, openvino_model, trace
from scripts.benchmarks import deployment, training
from scripts.benchmarks.interleave import Options, Part

MATRIX, WIDE, DEPTHWISE = "1x1 convolutions, matrix products", "3x3 and larger convolutions", "depthwise convolutions"
POINTWISE, SCALING, LAYOUT = "normalization, activation, sums", "scaling, pooling", "layout, copies"
OPTIMIZER, OTHER = "clipping, optimizer, average", "other"
GROUPS = (MATRIX, WIDE, DEPTHWISE, POINTWISE, SCALING, LAYOUT, OPTIMIZER, OTHER)

TORCH_NAMES = (
    (SCALING, ("upsample", "pool")),
    (OPTIMIZER, ("_foreach", "adam", "lerp", "linalg", "Optimizer", "clip")),
    (MATRIX, ("mm", "linear", "matmul")),
    (LAYOUT, ("copy", "clone", "cat", "contiguous", "empty", "zero", "fill", "to_copy", "index", "stack", "resize")),
    (POINTWISE, ("norm", "lu", "softmax", "add", "mul", "sub", "div", "sum", "mean", "pow", "sqrt", "exp", "sigmoid")),
)
"""Group -> parts of names of PyTorch's operators; the first group that fits counts."""

OPENVINO_TYPES = {
    "FullyConnected": MATRIX,
    "MatMul": SCALING,  # of the pooled maps
    "GroupConvolution": DEPTHWISE,
    "Interpolate": SCALING,
    "Reorder": LAYOUT,
    "DepthToSpace": LAYOUT,
    "Pad": LAYOUT,
    "ReduceMean": POINTWISE,
    "Subgraph": POINTWISE,
    "MVN": POINTWISE,
    "Add": POINTWISE,
}

Milliseconds = Mapping[str, float]
NOTE = (
    "The paper's network, milliseconds by group of operators, wall clock as the profilers see it, mean of {calls} "
    "calls. A forward pass of one image: before in eager float32, fused at the finest size; after in OpenVINO, "
    "bfloat16, where activations and sums are fused into the convolutions before them. A training step of 16 images: "
    "before in the reference's order, after as shipped."
)


def measure(options: Options) -> Part:
    """Operators of a forward pass and, unless ``quick``, of a training step."""
    calls = 5 if options.quick else 20
    rows = _compare("forward, 1 image", *_forward(options, calls))
    if not options.quick:
        rows += _compare("training step, 16 images", *_training_steps(options))
    return Part("Operators", NOTE.format(calls=f"{calls} (training: 3)"), rows)


def _compare(work: str, before: Milliseconds, after: Milliseconds) -> list[dict[str, Any]]:
    rows = [
        {
            "work": work,
            "operators": group,
            "before, ms": before.get(group, 0.0),
            "share before": before.get(group, 0.0) / sum(before.values()),
            "after, ms": after.get(group, 0.0),
            "share after": after.get(group, 0.0) / sum(after.values()),
        }
        for group in GROUPS
        if before.get(group) or after.get(group)
    ]
    total = {"before, ms": sum(before.values()), "share before": 1.0, "after, ms": sum(after.values())}
    return [*rows, {"work": work, "operators": "all", **total, "share after": 1.0}]


def _forward(options: Options, calls: int) -> tuple[Milliseconds, Milliseconds]:
    case = deployment._case(deployment._paper(options.seed), options.seed)
    with torch.inference_mode():
        before = profiled(deployment._fused_at_the_finest_size(case), calls=calls)
    return before, _openvino(case, calls)


def _training_steps(options: Options) -> tuple[Milliseconds, Milliseconds]:
    before = profiled(training.reference_order("paper", seed=options.seed), calls=3)
    after = profiled(training.shipped("paper", seed=options.seed), calls=3)
    return {group: ms / 2 for group, ms in before.items()}, after  # one call of the former is two batches


def profiled(work: Callable[[], Any], *, calls: int) -> dict[str, float]:
    """Milliseconds that a call of ``work`` spends in PyTorch's operators, by group."""
    work()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(calls):
            work()
    groups: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        groups[torch_group(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e3 / calls
    return dict(groups)


def torch_group(name: str, shapes: Sequence[Sequence[int]]) -> str:
    """The group of an operator of PyTorch by its name and, for convolutions, the shapes of its inputs."""
    if "conv" in name:
        weight = shapes[2 if "backward" in name and len(shapes) > 2 else 1] if len(shapes) > 1 else []
        if len(weight) != 4:
            return OTHER
        if weight[1] == 1 and weight[0] > 1:
            return DEPTHWISE
        return MATRIX if weight[2:] == [1, 1] else WIDE
    return next((group for group, parts in TORCH_NAMES if any(part in name for part in parts)), OTHER)


def _openvino(case: deployment.Case, calls: int) -> Milliseconds:
    inputs = example(case.image.shape[1], case.prompt.shape[1])
    model = openvino_model(trace(case.rewritten, inputs), inputs, outputs=case.rewritten.output_names)
    model.reshape({"image": list(case.image.shape), "prompt": list(case.prompt.shape)})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERF_COUNT": True,
    }
    request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()
    arrays = {"image": case.image.numpy(), "prompt": case.prompt.numpy()}
    groups: dict[str, float] = defaultdict(float)
    for call in range(calls + 2):
        request.infer(arrays)
        for entry in request.profiling_info if call >= 2 else []:
            groups[openvino_group(entry.node_type, entry.exec_type)] += entry.real_time.total_seconds() * 1e3 / calls
    return dict(groups)


def openvino_group(kind: str, implementation: str) -> str:
    """The group of one of OpenVINO's nodes by its type and what computes it."""
    if kind == "Convolution":
        return MATRIX if "1x1" in implementation else WIDE
    return OPENVINO_TYPES.get(kind, OTHER)
