# SPDX-License-Identifier: Apache-2.0
"""Exported models in place of the network: TorchScript, ONNX and OpenVINO files with the network's ``predict``."""

from __future__ import annotations

import functools
import importlib
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bundle.described import described_export
from bundle.engines.answers import Run, named_answers
from bundle.programs import NotComputing, checked_script

METADATA_KEY = "metadata"
"""Under which an exported file holds its metadata, one JSON: ONNX metadata_props, OpenVINO rt_info, TorchScript
_extra_files."""

SUFFIXES = {"torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}
"""Runtime -> what the names of its files end with."""

RUNTIMES = ("torch", *SUFFIXES)

_TABLES = ("structures", "label_sets", "positions", "image_size")  # in which a model and a config must agree

_KEPT_SHAPES = 4  # compiled models, each with its own copy of the weights


class ExportedNetwork(nn.Module):
    """A file of scripts/export.py that is called as :class:`bundle.networks.UPerConvNeXt` is.

    Args:
        path: TorchScript ``.ts``, ONNX ``.onnx`` or OpenVINO ``.xml`` (its ``.bin`` beside it).
        threads: of the runtime for one call; None leaves it the choice. TorchScript's are PyTorch's own, of the whole
            process.
        streams: calls at once, from threads of their own.

    Attributes:
        metadata: what the file says of itself, see docs/deployment.md.

    Raises:
        FileNotFoundError: when there is no such file, or an ``.xml`` without its ``.bin``.
        ValueError: when it is of another kind, damaged, or without this project's metadata.
        ImportError: when the runtime's package is not installed.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, streams: int = 1) -> None:
        super().__init__()
        self.path = Path(path)
        loader = _LOADERS.get(self.path.suffix)
        if loader is None:
            raise ValueError(
                f"exported model must end with {', '.join(_LOADERS)}, got {self.path}; make one with scripts/export.py."
            )
        for file in [self.path] + [self.path.with_suffix(".bin")] * (self.path.suffix == ".xml"):
            if not file.is_file():
                raise FileNotFoundError(
                    f"exported model must be a file, got {file}, which is none; make it with scripts/export.py or "
                    "correct --model_path."
                )
        try:
            text, self._run = loader(self.path, threads, streams)
            metadata = json.loads(text or "null")
        except ImportError:
            raise
        except NotComputing as error:
            raise ValueError(
                f"{self.path}: {error}; nothing of it was executed. Use a model that you exported."
            ) from error
        except Exception as error:  # each runtime raises kinds of its own for damaged files
            raise ValueError(
                f"{self.path} must be a model of scripts/export.py, got a damaged or different file "
                f"({type(error).__name__}: {str(error).strip().splitlines()[0][:200]}); export it again."
            ) from error
        if metadata is None:
            raise ValueError(
                f"{self.path} must hold this project's metadata, got a model without; make it with scripts/export.py."
            )
        self.metadata = described_export(metadata, path=self.path)
        self.image_channels = len(self.metadata["image_channels"])

    def predict(self, image: Tensor, prompt: Tensor | None = None) -> dict[str, Tensor]:
        """All logits by head, such as ``seg`` (B, structures, H, W) and ``cls_<label set>`` (B, K), float32.

        Args:
            image: (B, 3, H, W), normalized, or with guidance behind it (B, 5, H, W) where the model takes it. H and W
                are multiples of 32.
            prompt: (B, P) as ``bundle.vocabulary.encode_prompt`` gives; None is the neutral prompt.

        Raises:
            ValueError: when the model takes no such image.
        """
        batch, channels, height, width = image.shape
        if channels > self.image_channels or height % 32 or width % 32:
            raise ValueError(
                f"{self.path}: image must have shape (batch, up to {self.image_channels}, height, width), height and "
                f"width multiples of 32, got {list(image.shape)}; pad it, or export a model that takes guidance."
            )
        if prompt is None:
            prompt = torch.tensor([self.metadata["prompt"]["neutral"]])
        full = image.new_zeros(batch, self.image_channels, height, width, dtype=torch.float32)
        full[:, :channels] = image
        prompts = prompt.float().expand(batch, -1).contiguous().cpu()
        outputs = named_answers(self._run, full.cpu(), prompts, metadata=self.metadata, path=self.path)
        return {name: out.to(image.device) for name, out in outputs.items()}

    def forward(self, image: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Segmentation logits (B, structures, H, W), or the first ones. Args and Raises: those of ``predict``."""
        logits = self.predict(image, prompt)
        return logits["seg"] if "seg" in logits else next(iter(logits.values()))


def open_model(
    runtime: str, *, model_path: str | Path, threads: int | None = None, streams: int = 1
) -> ExportedNetwork | None:
    """The exported model of a runtime; None for the runtime torch, whose network is built and loaded.

    Args:
        runtime: one of ``RUNTIMES``.
        model_path: exported file; not looked at for torch.
        threads: of the runtime for one call; None leaves it the choice.
        streams: calls at once, from threads of their own.

    Raises:
        ValueError: when there is no such runtime, or the file was made for another one.
        FileNotFoundError, ImportError: as :class:`ExportedNetwork`.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}; correct --runtime.")
    if runtime == "torch":
        if threads is not None:
            torch.set_num_threads(threads * streams)
        return None
    if Path(model_path).suffix != SUFFIXES[runtime]:
        raise ValueError(
            f"model_path must end with {SUFFIXES[runtime]} for the runtime {runtime}, got {model_path}; correct "
            "--model_path or --runtime."
        )
    return ExportedNetwork(model_path, threads=threads, streams=streams)


def runtime_network(network: nn.Module, *, exported: ExportedNetwork | None, image_size: int) -> nn.Module:
    """What runs an image: the exported model, or ``network`` where there is none.

    Args:
        network: a :class:`bundle.networks.UPerConvNeXt`.
        exported: of :func:`open_model`.
        image_size: the config's, in pixels.

    Raises:
        ValueError: when the model's tables or its image size are not those of the config, such as an overlay's.
    """
    if exported is None:
        return network
    wanted = {**network.network_config(), "image_size": image_size}  # type: ignore[operator]
    told = exported.metadata
    sets = {name: told["label_sets"].get(name) for name in wanted["label_sets"]}  # fewer where heads were left out
    for key, found in {**told, "label_sets": sets}.items():
        if key in _TABLES and key in wanted and found != wanted[key]:
            raise ValueError(
                f"{exported.path} was exported with {key} {told[key]}, got a config with {wanted[key]}; export it again"
                " from the config's weights, or use the config that it was made with."
            )
    return exported


def exported_path(folder: str | Path, runtime: str) -> str:
    """The float32 model of a runtime in a folder that scripts/export.py wrote."""
    return str(Path(folder) / f"model_float32{SUFFIXES.get(runtime, '')}")


def weights_file(runtime: str, *, ckpt_path: str, model_path: str) -> str:
    """The file that holds the weights which a runtime uses."""
    if runtime == "torch":
        return ckpt_path
    return str(Path(model_path).with_suffix(".bin")) if runtime == "openvino" else model_path


def require_package(name: str) -> Any:
    """The module of an optional package.

    Raises:
        ImportError: when it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"package {name} must be installed for this runtime or export, got {error}; "
            'run in the bundle\'s folder: pip install -e ".[deploy]"'
        ) from error


def _load_torchscript(path: Path, threads: int | None, streams: int) -> tuple[str, Run]:
    checked = checked_script(path)
    if threads is not None:
        torch.set_num_threads(threads * streams)
    files = {f"{METADATA_KEY}.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript's own, in each load
        module = torch.jit.load(checked, map_location="cpu", _extra_files=files).eval()  # type: ignore[no-untyped-call]

    def run(image: Tensor, prompt: Tensor) -> Sequence[Tensor]:
        with torch.inference_mode():
            return list(module(image, prompt))

    text: str | bytes = files[f"{METADATA_KEY}.json"]
    return text.decode() if isinstance(text, bytes) else text, run


def _load_onnx(path: Path, threads: int | None, streams: int) -> tuple[str, Run]:
    onnxruntime = require_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    if threads is None and streams > 1:
        threads = max(1, torch.get_num_threads() // streams)
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor, prompt: Tensor) -> Sequence[Tensor]:
        found = session.run(None, {"image": image.numpy(), "prompt": prompt.numpy()})
        return [torch.from_numpy(array) for array in found]

    return session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, ""), run


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the whole process.

    Each ``Core`` gives the main thread an alternate signal stack and takes it back when its last model goes. Where
    several come and go, a stack is left behind whose memory is gone (OpenVINO 2026.4, Linux), and the next signal, such
    as the end of a loader process, ends this one.

    Raises:
        ImportError: when OpenVINO is not installed.
    """
    return require_package("openvino").Core()


def _load_openvino(path: Path, threads: int | None, streams: int) -> tuple[str, Run]:
    core = openvino_core()
    model = core.read_model(path)
    if not model.has_rt_info([METADATA_KEY]):
        return "", lambda image, prompt: []
    text = str(model.get_rt_info([METADATA_KEY]).astype(str))
    metadata = described_export(json.loads(text), path=path)
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": metadata.get("precision_hint", "f32")}
    options |= {"PERFORMANCE_HINT": "LATENCY"} if streams == 1 else {"NUM_STREAMS": streams}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads * streams
    lock = threading.Lock()

    @functools.lru_cache(_KEPT_SHAPES)
    def compiled(*shape: int) -> Any:
        fixed = model.clone()  # a model whose shapes are known runs a fifth faster than a dynamic one
        fixed.reshape({"image": list(shape), "prompt": [shape[0], model.input("prompt").partial_shape[1]]})
        return core.compile_model(fixed, "CPU", options)

    def infer(request: Any, image: Tensor, prompt: Tensor) -> Sequence[Tensor]:
        found = request.infer({"image": image.numpy(), "prompt": prompt.numpy()}, share_inputs=True)
        return [torch.from_numpy(found[i]) for i in range(len(found))]

    @functools.lru_cache(_KEPT_SHAPES * streams)
    def request(thread: int, *shape: int) -> Any:
        made = compiled(*shape).create_infer_request()
        prompts = made.get_tensor("prompt").shape
        infer(made, torch.zeros(shape), torch.zeros(list(prompts)))
        return made

    def run(image: Tensor, prompt: Tensor) -> Sequence[Tensor]:
        # Each thread has a request of its own. It is made, and called for the first time, while the others wait: two
        # first calls at once can wait for each other for ever (OpenVINO 2026.4).
        with lock:
            mine = request(threading.get_ident(), *image.shape)
        return infer(mine, image, prompt)

    return text, run


_LOADERS: dict[str, Callable[[Path, int | None, int], tuple[str, Run]]] = {
    ".ts": _load_torchscript,
    ".onnx": _load_onnx,
    ".xml": _load_openvino,
}
