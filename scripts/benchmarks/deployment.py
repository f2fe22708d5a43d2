# SPDX-License-Identifier: Apache-2.0
"""Latency of one image in every runtime and precision, against the paper's network in eager float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from torch import Tensor, nn

from bundle.engines.runtimes import openvino_core, require_package
from bundle.export import load_source
from bundle.export.formats import example, onnx_model, openvino_model, trace
from bundle.export.quantize import CalibrationImages, quantize
from bundle.networks import UPerConvNeXt
from bundle.networks.deployable import DeployableNetwork, deployable
from bundle.networks.upernet import UPerNetDecoder
from scripts.benchmarks.interleave import Options, Part, Timing, interleave

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIDE = 224
BASELINE = ("paper", "eager, fused at the finest size", "float32")
"""The paper's network as the paper has it: its decoder joins all maps at 1/4 before the 1x1 convolution."""
CALLS = 3
"""Runs in a row that count as one round, as in a stream of frames: each way finds its own weights in the cache."""

Run = Callable[[], Sequence[Tensor]]
Way = tuple[str, str, str]  # network, runtime, precision


@dataclass(frozen=True)
class Case:
    """A network, an image for it, and how others' outputs are compared with its own."""

    network: UPerConvNeXt
    rewritten: DeployableNetwork
    image: Tensor
    prompt: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """Image (1, C, 224, 224) and prompt (1, P)."""
        return self.image, self.prompt

    def eager(self) -> Sequence[Tensor]:
        """Outputs of the network as it is trained."""
        return list(self.network.predict(*self.inputs).values())

    def difference(self, outputs: Sequence[Tensor]) -> float:
        """Largest absolute difference of any logit from eager."""
        pairs = zip(outputs, self.eager(), strict=True)
        return max(float((got.float() - expected).abs().max()) for got, expected in pairs)


def measure(options: Options) -> Part:
    """Times batch 1 at 224 px in all runtimes, in turns."""
    cases = {"paper": _case(_paper(options.seed), options.seed), "compact": _case(_compact(options), options.seed)}
    ways: dict[Way, Run] = {BASELINE: _fused_at_the_finest_size(cases["paper"])}
    for name, case in cases.items():
        runs = {**_torch_ways(case), **_onnx_ways(case), **_openvino_ways(case, images=4 if options.quick else 32)}
        ways |= {(name, *way): run for way, run in runs.items()}
    with torch.inference_mode():
        named = {", ".join(way): _repeated(run) for way, run in ways.items()}
        timings = interleave(named, rounds=7 if options.quick else 40)
        differences = {way: cases[way[0]].difference(run()) for way, run in ways.items()}
    rows = []
    for way in ways:
        timing, baseline = timings[", ".join(way)], timings[", ".join(BASELINE)]
        rows.append(_row(way, timing, baseline=baseline, difference=differences[way]))
    note = (
        f"One image, {SIDE} px, {torch.get_num_threads()} threads, medians over rounds of {CALLS} runs. The "
        "difference is the largest of any logit; int8 is calibrated on noise here, only for the time."
    )
    return Part(title="Deployment", note=note, rows=rows)


def _row(way: Way, timing: Timing, *, baseline: Timing, difference: float) -> dict[str, Any]:
    return {
        "network": way[0],
        "runtime": way[1],
        "precision": way[2],
        "ms": 1000 * timing.median / CALLS,
        "first quartile": 1000 * timing.low / CALLS,
        "third quartile": 1000 * timing.high / CALLS,
        "times paper, eager": baseline.median / timing.median,
        "difference from eager": difference,
    }


def _case(network: UPerConvNeXt, seed: int) -> Case:
    random = torch.Generator().manual_seed(seed)
    channels = network.in_channels + network.guidance_channels
    image = torch.randn(1, channels, SIDE, SIDE, generator=random)
    prompt = torch.rand(1, network.prompt_length, generator=random)
    return Case(network=network, rewritten=deployable(network), image=image, prompt=prompt)


def _paper(seed: int) -> UPerConvNeXt:
    files = [str(CONFIGS / f"{name}.yaml") for name in ("train", "paper")]
    config = ConfigParser(ConfigParser.load_config_files(files))
    torch.manual_seed(seed)
    return cast(UPerConvNeXt, config.get_parsed_content("network_def").eval())


def _compact(options: Options) -> UPerConvNeXt:
    return load_source(options.weights, config_files=[CONFIGS / "train.yaml"]).network


class _AllHeads(nn.Module):
    def __init__(self, network: UPerConvNeXt) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, prompt: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.predict(image, prompt).values())


def _fused_at_the_finest_size(case: Case) -> Run:
    network = copy.deepcopy(case.network)
    decoder = cast(UPerNetDecoder, network.decoder)

    def fuse(maps: list[Tensor]) -> Tensor:
        size = maps[3].shape[-2:]
        joined = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in reversed(maps)]
        return cast(Tensor, decoder.fusion(torch.cat(joined, dim=1)))

    decoder._fuse = fuse  # type: ignore[method-assign]
    return lambda: list(network.predict(case.image, case.prompt).values())


def _repeated(run: Run) -> Callable[[], None]:
    def work() -> None:
        for _ in range(CALLS):
            run()

    return work


def _torch_ways(case: Case) -> dict[tuple[str, str], Run]:
    rewritten = case.rewritten
    last = deployable(case.network).to(memory_format=torch.channels_last)
    image = case.image.to(memory_format=torch.channels_last)
    frozen = torch.jit.freeze(trace(rewritten, case.inputs))

    def half() -> Sequence[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cast(Sequence[Tensor], last(image, case.prompt))

    return {
        ("eager", "float32"): case.eager,
        ("rewritten, eager", "float32"): lambda: rewritten(*case.inputs),
        ("rewritten, eager, channels last", "float32"): lambda: last(image, case.prompt),
        ("rewritten, eager, channels last", "bfloat16"): half,
        ("TorchScript", "float32"): lambda: frozen(*case.inputs),
    }


def _onnx_ways(case: Case) -> dict[tuple[str, str], Run]:
    onnxruntime = require_package("onnxruntime")
    inputs = example(case.image.shape[1], case.prompt.shape[1])
    model = onnx_model(case.rewritten, inputs, outputs=case.rewritten.output_names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = {"image": case.image.numpy(), "prompt": case.prompt.numpy()}
    return {("ONNX Runtime", "float32"): lambda: [torch.from_numpy(array) for array in session.run(None, arrays)]}


def _openvino_ways(case: Case, *, images: int) -> dict[tuple[str, str], Run]:
    plain = _AllHeads(case.network).eval()
    outputs = case.rewritten.output_names
    inputs = example(case.image.shape[1], case.prompt.shape[1])
    model = openvino_model(trace(case.rewritten, inputs), inputs, outputs=outputs)
    noise = [{"image": torch.randn_like(case.image).numpy(), "prompt": case.prompt.numpy()} for _ in range(images)]
    int8 = quantize(model.clone(), cast(CalibrationImages, noise), kept=case.rewritten.float_parts()[0])
    unchanged = openvino_model(trace(plain, inputs), inputs, outputs=outputs)
    return {
        ("OpenVINO, network as trained", "float32"): _compiled(unchanged, case, hint="f32"),
        ("OpenVINO, network as trained", "bfloat16"): _compiled(unchanged, case, hint="bf16"),
        ("OpenVINO", "float32"): _compiled(model, case, hint="f32"),
        ("OpenVINO", "bfloat16"): _compiled(model, case, hint="bf16"),
        ("OpenVINO", "int8"): _compiled(int8, case, hint="bf16"),
    }


def _compiled(model: Any, case: Case, *, hint: str) -> Run:
    """The model at its fixed size, as ``bundle.engines.runtimes`` runs it."""
    fixed = model.clone()
    fixed.reshape({"image": list(case.image.shape), "prompt": list(case.prompt.shape)})
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino_core().compile_model(fixed, "CPU", options)
    arrays = {"image": case.image.numpy(), "prompt": case.prompt.numpy()}

    def run() -> Sequence[Tensor]:
        found = compiled(arrays)
        return [torch.from_numpy(found[i]) for i in range(len(found))]

    return run
