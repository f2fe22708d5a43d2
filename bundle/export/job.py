# SPDX-License-Identifier: Apache-2.0
"""One run of exports: each file is written aside, loaded, compared with eager, and only then put in its place."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bundle.engines.runtimes import SUFFIXES, ExportedNetwork
from bundle.export import formats
from bundle.export.metadata import describe
from bundle.export.quantize import CalibrationImages, quantize
from bundle.export.source import Source
from bundle.export.verify import Refused, Scores, WithEager, check_outputs, check_scores, scores
from bundle.files import OutputFolder, sha256
from bundle.networks import UPerConvNeXt
from bundle.networks.deployable import deployable
from bundle.networks.heads import CLASSES

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "int8")
PAIRS = {
    "torchscript": ("float32",),
    "onnx": ("float32",),
    "openvino": PRECISIONS,
}
"""Format -> precisions that are made. ONNX Runtime computes no bfloat16 on CPUs, and int8 in twice the time of float32;
PyTorch has autocast for what runs TorchScript."""

SUMMARY = "export.json"


@dataclass(frozen=True)
class Export:
    """What became of one model.

    Attributes:
        name: of its file.
        format: torchscript, onnx or openvino.
        precision: float32, bfloat16 or int8.
        error: why it was refused, else "".
        files: name -> SHA-256 of what was written.
        kept: parts of the network that int8 leaves out.
        bytes: of all files.
        difference: largest absolute difference of any logit from eager.
        scores: of a model of reduced precision on the validation split.
        eager: of eager there.
    """

    name: str
    format: str
    precision: str
    error: str = ""
    files: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    bytes: int = 0
    difference: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    eager: dict[str, float] = field(default_factory=dict)


class Exporter:
    """Makes the files of one checkpoint.

    Args:
        source: what is exported.
        output_dir: folder of the files; made when absent. Only files of earlier exports are replaced.
        calibration_images: training images that int8 is calibrated with.
        seed: of the choice of those images.
        threads: of the runtimes, in comparisons; None leaves them the choice.
        heads: outputs that are computed, by names of heads or of label sets; nothing is computed for others. None: all.

    Raises:
        ValueError: when a head is not one of the network's.
    """

    def __init__(
        self,
        source: Source,
        *,
        output_dir: str | Path,
        heads: Sequence[str] | None = None,
        calibration_images: int = 300,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self.source = source
        self.output_dir = Path(output_dir)
        self.folder = OutputFolder(output_dir, option="--output", sources=[source.weights])
        self.calibration_images, self.seed, self.threads = calibration_images, seed, threads
        self.model = deployable(source.network, None if heads is None else _heads(source.network, heads))
        channels = source.network.in_channels + source.network.guidance_channels
        self.inputs = formats.example(channels, source.network.prompt_length)
        self.outputs = list(self.model.output_names)
        self.suffix = "" if heads is None else "_" + "_".join(name.removeprefix(CLASSES) for name in self.outputs)

    def check(self, plan: Sequence[tuple[str, str]]) -> None:
        """Refuses to replace what no earlier run wrote, before the work.

        Args:
            plan: pairs of format and precision.

        Raises:
            FileExistsError: when a file of those models, or ``export.json``, is not of an earlier export.
        """
        names = [Path(self._name(kind, precision)) for kind, precision in plan]
        self.folder.check([SUMMARY, *names, *(name.with_suffix(".bin") for name in names if name.suffix == ".xml")])

    def _name(self, kind: str, precision: str) -> str:
        return f"model_{precision}{self.suffix.replace(' ', '-')}{SUFFIXES[kind]}"

    def export(self, kind: str, precision: str) -> Export:
        """Makes one model; it is in ``output_dir`` when it has no ``error``, else nothing of it is.

        Args:
            kind: format, one of ``PAIRS``.
            precision: one of those of the format.

        Raises:
            FileExistsError: when a file that no earlier run wrote would be replaced.
        """
        name = self._name(kind, precision)
        self.check([(kind, precision)])
        self.output_dir.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=self.output_dir, prefix=".export-"))
        try:
            found = self._first_that_holds(kind, aside / name, precision)
            files = self._put_in_place(aside)
        except Refused as reason:
            error = f"{self.output_dir / name} is not written: {reason}; {_REMEDIES[precision]}"
            return Export(name, kind, precision, error=error)
        finally:
            shutil.rmtree(aside)
        hashes = {file.name: sha256(file) for file in files}
        return Export(name, kind, precision, files=hashes, bytes=sum(f.stat().st_size for f in files), **found)

    def _first_that_holds(self, kind: str, path: Path, precision: str) -> dict[str, Any]:
        """Writes the model, int8 with more and more parts kept until it holds its limits."""
        steps = self.model.float_parts() if precision == "int8" else ((),)
        for kept, following in pairwise(steps):
            try:
                return self._attempt(kind, path, precision=precision, kept=kept)
            except Refused as reason:
                logger.warning(
                    f"{path.name}, {', '.join(kept)} kept: {reason}; trying with {', '.join(following)} kept"
                )
        return self._attempt(kind, path, precision=precision, kept=steps[-1])

    def _attempt(self, kind: str, path: Path, *, precision: str, kept: Sequence[str]) -> dict[str, Any]:
        self._write(kind, path, precision=precision, kept=kept)
        return {**self._compare(path, precision), "kept": list(kept)}

    def _write(self, kind: str, path: Path, *, precision: str, kept: Sequence[str]) -> None:
        for former in path.parent.iterdir():  # not written over: OpenVINO maps a loaded model's file into memory
            former.unlink()
        metadata = describe(self.source, precision=precision, outputs=self.outputs, kept=kept)
        if kind == "torchscript":
            formats.save_torchscript(self.traced, path, metadata)
        elif kind == "onnx":
            model = formats.onnx_model(self.model, self.inputs, outputs=self.outputs)
            formats.save_onnx(model, path, metadata)
        elif precision == "int8":
            formats.save_openvino(quantize(self.openvino.clone(), self.calibration, kept=kept), path, metadata)
        else:
            formats.save_openvino(self.openvino, path, metadata)

    def _compare(self, path: Path, precision: str) -> dict[str, Any]:
        exported = ExportedNetwork(path, threads=self.threads)
        difference = check_outputs(exported, self.source, precision=precision, outputs=self.outputs)
        if precision == "float32":
            return {"difference": difference}
        found = scores(self.source, WithEager(exported, self.source.network))
        check_scores(found, self.eager)
        return {"difference": difference, "scores": found.values, "eager": self.eager.values}

    def _put_in_place(self, aside: Path) -> list[Path]:
        """Moves files; a former model of the same name is either whole or gone, never of two exports."""
        files = sorted(aside.iterdir())  # .bin before .xml
        if len(files) > 1:
            self.folder.remove(files[-1].name)
        return [self.folder.write(file.name, functools.partial(os.replace, file)) for file in files]

    @functools.cached_property
    def traced(self) -> Any:
        """The TorchScript model."""
        return formats.trace(self.model, self.inputs)

    @functools.cached_property
    def openvino(self) -> Any:
        """The OpenVINO model, float32."""
        return formats.openvino_model(self.traced, self.inputs, outputs=self.outputs)

    @functools.cached_property
    def calibration(self) -> CalibrationImages:
        """The calibration images."""
        return CalibrationImages(self.source, count=self.calibration_images, seed=self.seed)

    @functools.cached_property
    def eager(self) -> Scores:
        """Eager's scores."""
        return scores(self.source, self.source.network)


def _heads(network: UPerConvNeXt, asked: Sequence[str]) -> list[str]:
    """Names of heads, given those or label sets; those that read the decoder's map come first.

    Raises:
        ValueError: when a name is neither.
    """
    names = {name: name if name in network.head_names else CLASSES + name for name in asked}
    if unknown := [name for name, head in names.items() if head not in network.head_names]:
        raise ValueError(
            f"heads must be among {network.head_names}, got {unknown}; name heads or label sets of this network."
        )
    return sorted(dict.fromkeys(names.values()), key=lambda name: name not in network.map_heads)


_REMEDIES = {
    "float32": "report it with the versions of torch and of the runtime",
    "bfloat16": "use float32",
    "int8": "use bfloat16 or float32, or more --calibration_images",
}


def planned(kinds: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """The asked pairs of format and precision that are made, in the order of ``PAIRS``."""
    return [(kind, p) for kind, made in PAIRS.items() for p in made if kind in kinds and p in precisions]


def write_summary(source: Source, exports: Sequence[Export], output_dir: str | Path) -> Path:
    """Writes ``export.json``: each model in the folder, from which weights, and how it compares; refused ones too.

    Models of earlier exports stay in it as long as their files are as they were written.
    """
    path = Path(output_dir) / SUMMARY
    weights = sha256(source.weights)
    models = [{**asdict(export), "weights_sha256": weights} for export in exports]
    made = {name for export in exports for name in export.files}
    earlier = [model for model in _listed(path) if not made & set(model["files"]) and _unchanged(model, path.parent)]
    folder = OutputFolder(output_dir, option="--output", sources=[source.weights])
    return folder.write(SUMMARY, (json.dumps({"models": earlier + models}, indent=1) + "\n").encode())


def _listed(path: Path) -> list[dict[str, Any]]:
    """Models that a summary lists, with files; none where there is no such summary."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        models = [{"weights_sha256": summary.get("weights_sha256"), **model} for model in summary["models"]]
        return [model for model in models if model["files"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning(
            f"{path} must be a summary of exports, got another file ({type(error).__name__}); it is replaced."
        )
        return []


def _unchanged(model: dict[str, Any], folder: Path) -> bool:
    files = {folder / Path(name).name: digest for name, digest in model["files"].items()}
    return all(file.is_file() and sha256(file) == digest for file, digest in files.items())
