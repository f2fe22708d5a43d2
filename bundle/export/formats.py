# SPDX-License-Identifier: Apache-2.0
"""Writers of the three file formats; batch and image size stay free in all of them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bundle.engines.runtimes import METADATA_KEY, require_package
from bundle.export.metadata import as_text


def example(channels: int, prompt_length: int) -> tuple[Tensor, Tensor]:
    """Image (2, channels, 224, 160) and prompt (2, P) for tracing: no two axes are equal, none is one."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, 224, 160, generator=random), torch.rand(2, prompt_length, generator=random)


def trace(model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Any:
    """The model as TorchScript, by tracing; the comparison with eager holds whether sizes stayed free."""
    with quiet(), torch.no_grad():
        return torch.jit.trace(model.eval(), inputs, check_trace=False)  # type: ignore[no-untyped-call]


def save_torchscript(traced: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a ``.ts`` file, its metadata as the extra file ``metadata.json``."""
    with quiet():
        torch.jit.save(traced, path, _extra_files={f"{METADATA_KEY}.json": as_text(metadata)})


def onnx_model(model: nn.Module, inputs: tuple[Tensor, Tensor], *, outputs: list[str]) -> Any:
    """The model as an ``onnx.ModelProto`` in float32."""
    for package in ("onnx", "onnxscript"):
        require_package(package)
    free = torch.export.Dim.DYNAMIC
    with quiet():
        program = torch.onnx.export(
            model.eval(),
            inputs,
            dynamo=True,
            verbose=False,
            input_names=["image", "prompt"],
            output_names=outputs,
            dynamic_shapes={"image": {0: free, 2: free, 3: free}, "prompt": {0: free}},
        )
    if program is None:
        raise RuntimeError("torch.onnx.export must give a program, got none; use another PyTorch.")
    return program.model_proto


def save_onnx(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes an ``.onnx`` file, weights inside, its metadata in ``metadata_props``."""
    onnx = require_package("onnx")
    onnx.helper.set_model_props(model, {METADATA_KEY: as_text(metadata)})
    onnx.save_model(model, str(path))


def openvino_model(traced: Any, inputs: tuple[Tensor, Tensor], *, outputs: list[str]) -> Any:
    """The traced model as an ``openvino.Model`` in float32."""
    openvino = require_package("openvino")
    image, prompt = inputs
    shapes = [("image", [-1, image.shape[1], -1, -1]), ("prompt", [-1, prompt.shape[1]])]
    with quiet():
        model = openvino.convert_model(traced, example_input=inputs, input=shapes)
    for ports, names in ((model.inputs, ["image", "prompt"]), (model.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return model


def save_openvino(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes ``.xml`` and ``.bin``, the metadata in ``rt_info``; weights as float16 unless the precision is float32."""
    openvino = require_package("openvino")
    model.set_rt_info(as_text(metadata), [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=metadata["precision"] != "float32")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what exporters warn of: their own future, and branches on shapes, which the comparison looks after."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "nncf")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
