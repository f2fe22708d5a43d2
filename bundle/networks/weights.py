# SPDX-License-Identifier: Apache-2.0
"""Weights from files: this project's checkpoints, and other people's turned into ours. Never from the network."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor, nn

from bundle import __version__
from bundle.vocabulary import PAPER_POSITIONS

AUTHORS_NETWORK: dict[str, Any] = {
    "encoder": "convnext_tiny",
    "decoder_channels": 256,
    "structures": ["background", "foreground"],
    "label_sets": {"two": ["class_0", "class_1"], "four": ["class_0", "class_1", "class_2", "class_3"]},
    "positions": list(PAPER_POSITIONS),
    "norm": "batch",
}
"""Arguments of the network that the authors' checkpoints fit; ``conditioning`` follows from the checkpoint."""

_AUTHORS_UNUSED = ("seg_head.backbone.", "backbone.head.")
_AUTHORS_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^seg_head\.ppm\.cba(\d)\.", lambda m: f"decoder.ppm.branches.{int(m[1]) - 1}."),
    (r"^seg_head\.ppm\.out\.", "decoder.ppm.fusion."),
    (r"^seg_head\.fpn\.fpn_in\.fpn_layer(\d)\.", lambda m: f"decoder.laterals.{3 - int(m[1])}."),
    (r"^seg_head\.fpn\.fpn_out\.fpn_layer(\d)\.", lambda m: f"decoder.smooths.{3 - int(m[1])}."),
    (r"^seg_head\.fuse\.", "decoder.fusion."),
    (r"^seg_head\.seg\.0\.", "decoder.block."),
    (r"^seg_head\.seg\.1\.", "decoder.classifier."),
    (r"^seg_head\.out\.", "decoder.refine."),
    (r"\.bn\.", ".norm."),
    (r"^cls_head_2cls\.", "heads.cls_two."),
    (r"^cls_head_4cls\.", "heads.cls_four."),
    (r"^dec_prompt_mlp\.", "feature_prompt.linear."),
    (r"^prompt_scale_cls$", "feature_prompt.gate"),
    (r"^prompt_proj_layers\.(\d)\.", r"level_prompts.\1.linear."),
    (r"^prompt_scale_seg\.(\d)$", r"level_prompts.\1.gate"),
)


@dataclass(frozen=True)
class Conversion:
    """Converted weights and what became of every name.

    ``taken`` and ``ignored`` are names of the source; ``untouched`` are names of the network without a value in it.
    """

    state: dict[str, Tensor]
    taken: list[str]
    ignored: list[str]
    untouched: list[str]


def read_file(path: str | Path) -> Any:
    """What a weights file holds; only tensors and plain values are read, no pickled code runs.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is truncated, of another kind, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights must be a file, got {path}, which is none; correct the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nine kinds for damaged files, KeyError and OSError among them
        if isinstance(error, pickle.UnpicklingError) and path.read_bytes()[:1] in (b"P", b"\x80"):
            found = re.search(r"GLOBAL (\S+)", str(error))
            raise ValueError(
                f"{path} must hold tensors and plain values, got pickled Python objects"
                f"{f' ({found[1]})' if found else ''}; refused, nothing in it was executed. Save its state dict alone."
            ) from error
        raise ValueError(
            f"{path} must be a checkpoint (.pt, .pth or .safetensors), got a truncated or different file "
            f"({type(error).__name__}); copy or download it again."
        ) from error


def save_checkpoint(path: str | Path, *, model: Mapping[str, Tensor], network_config: Mapping[str, Any]) -> None:
    """Writes a checkpoint in one step: a former file stays whole until the new one is complete on the disk."""
    path = Path(path)
    content = {"model": dict(model), "network_config": {**network_config, "version": __version__}}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's files are for their owner alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def load_network(network: nn.Module, path: str | Path) -> dict[str, Any]:
    """Loads a checkpoint of this project, every tensor of it, and gives its ``network_config``.

    Args:
        network: a ``UPerConvNeXt``; unchanged when the checkpoint is refused.
        path: file such as ``models/model.pt``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no checkpoint of this project or was made for another network.
    """
    content = read_file(path)
    config = content.get("network_config") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(
            f"{path} must hold 'model' and 'network_config', got a file of another project; "
            "convert it with scripts/convert_checkpoint.py."
        )
    if "structures" not in config:
        raise ValueError(
            f"{path} must hold a whole network, got the encoder {config.get('encoder')} alone; "
            "give it as encoder_weights."
        )
    own: dict[str, Any] = network.network_config()  # type: ignore[operator]
    if differing := [key for key, value in own.items() if config.get(key) != value]:
        raise ValueError(
            f"{path} was made with {_listed(config, differing)}; this network has {_listed(own, differing)}; "
            f"use {_as_flags(config, differing)}, or other weights."
        )
    _require_fit(content["model"], network.state_dict(), path)
    network.load_state_dict(content["model"])
    return config


def load_encoder(encoder: nn.Module, *, name: str, path: str | Path) -> Conversion:
    """Starts an encoder from a file in the layout of facebookresearch, of timm or of this project.

    Args:
        encoder: a ``ConvNeXtEncoder``.
        name: its timm name, for messages.
        path: local file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is of another layout or of another encoder.
    """
    content = read_file(path)
    if isinstance(content, dict) and "network_config" in content:
        made_with = content["network_config"].get("encoder")
        if made_with != name:
            raise ValueError(f"{path} was made with encoder {made_with}; this one is {name}; use --encoder {made_with}.")
    conversion = convert_encoder(state_dict(content, path), encoder, name=name, path=path)
    encoder.load_state_dict(conversion.state, strict=False)
    return conversion


def state_dict(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file's content, freed from the usual wrappings ``model``, ``state_dict`` and ``module.``.

    Raises:
        ValueError: when the content is not names and tensors.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()) or not content:
        raise ValueError(f"{path} must hold a state dict (names and tensors), got none; save one with torch.save.")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def detect_layout(state: Mapping[str, Tensor], path: str | Path) -> str:
    """``authors``, ``facebook``, ``timm`` or ``bundle``: whose names these are.

    Raises:
        ValueError: when the names are of none of them.
    """
    marks = {
        "authors": "backbone.downsample_layers.0.0.weight",
        "facebook": "downsample_layers.0.0.weight",
        "timm": "stem.0.weight",
        "bundle": "encoder.backbone.stem_0.weight",
    }
    for layout, mark in marks.items():
        if mark in state:
            return layout
    raise ValueError(
        f"{path} must be in the layout of the paper's authors, of facebookresearch/ConvNeXt or of timm, "
        f"got names such as {sorted(state)[:3]}; give ConvNeXt weights."
    )


def convert_encoder(
    state: Mapping[str, Tensor], encoder: nn.Module, *, name: str, path: str | Path, prefix: str = ""
) -> Conversion:
    """ConvNeXt weights of another layout as the state dict of a ``ConvNeXtEncoder``.

    Args:
        state: names and tensors, those of other layouts than the encoder's included.
        encoder: the encoder that they are for; it is not changed.
        name: its timm name, for messages.
        path: the file that they came from, for messages.
        prefix: what precedes the encoder's names in ``state``.

    Raises:
        ValueError: when they are of another encoder.
    """
    target = encoder.state_dict()
    inner = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    rename = {"facebook": _from_facebook, "timm": _from_timm, "bundle": _from_bundle}[detect_layout(inner, path)]
    converted: dict[str, Tensor] = {}
    taken: list[str] = []
    for source, key, value in rename(inner, target):
        converted[key] = value
        taken.append(prefix + source)
    untouched = [n for n in target if n not in converted]
    # A head-less variant may lack the last norm; a backbone with holes would be random in part.
    optional = {n: target[n] for n in untouched if n.startswith("norm.")}
    _require_fit({**optional, **converted}, target, path, f"encoder {name}; choose the --encoder they were made with")
    return Conversion(converted, taken, [n for n in state if n not in set(taken)], untouched)


def authors_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the ``UPerConvNeXt`` that a checkpoint of the authors fits, with or without prompts."""
    prompted = any("prompt" in name for name in state)
    return {**AUTHORS_NETWORK, "conditioning": "additive" if prompted else "none"}


def convert_authors(
    state: Mapping[str, Tensor],
    network: nn.Module,
    *,
    path: str | Path,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Conversion:
    """A checkpoint of the paper's authors as the state dict of a ``UPerConvNeXt``.

    Their network reads BGR values in [0, 1]. With ``mean`` and ``std`` the first convolution is rewritten so that ours
    reads RGB normalized by them, exactly: that convolution has no padding.

    Args:
        state: their names and tensors.
        network: a network built with ``authors_arguments(state)``; it is not changed.
        path: the file that they came from, for messages.
        mean: per-channel mean of our image normalization, RGB; ``None`` with ``std`` keeps their BGR input.
        std: per-channel standard deviation of our image normalization, RGB.

    Raises:
        ValueError: when a tensor is missing, unknown or of another shape.
    """
    encoder = convert_encoder(
        {n: v for n, v in state.items() if not n.startswith("seg_head.")},
        network.encoder,  # type: ignore[arg-type]
        name=AUTHORS_NETWORK["encoder"],
        path=path,
        prefix="backbone.",
    )
    ignored = [n for n in state if n.startswith(_AUTHORS_UNUSED)]
    converted = {f"encoder.{n}": v for n, v in encoder.state.items()}
    rest = [n for n in state if n not in set(ignored) and not n.startswith("backbone.")]
    for source in rest:
        name = source
        for pattern, replacement in _AUTHORS_NAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = state[source]
    if mean is not None and std is not None:
        stem = "encoder.backbone.stem_0."
        converted |= _fold_normalization(converted[stem + "weight"], converted[stem + "bias"], mean, std, stem)
    _require_fit(converted, network.state_dict(), path, "the paper's network; see AUTHORS_NETWORK")
    return Conversion(converted, encoder.taken + rest, ignored, [])


def _fold_normalization(
    weight: Tensor, bias: Tensor, mean: Sequence[float], std: Sequence[float], prefix: str
) -> dict[str, Tensor]:
    rgb = weight.double().flip(1)
    scale = torch.tensor(std, dtype=torch.float64)[:, None, None]
    shift = torch.tensor(mean, dtype=torch.float64)[:, None, None]
    return {
        prefix + "weight": (rgb * scale).to(weight.dtype),  # values = normalized * std + mean
        prefix + "bias": (bias.double() + (rgb * shift).sum((1, 2, 3))).to(bias.dtype),
    }


Renamed = Iterator[tuple[str, str, Tensor]]


def _from_facebook(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Renamed:
    names = {re.sub(r"^(stem|stages)_(\d+)", r"\1.\2", n.removeprefix("backbone.")): v for n, v in target.items()}
    model = SimpleNamespace(state_dict=lambda: names)  # timm's filter asks for the shape of its own names
    for source, value in state.items():
        if source.startswith(("downsample_layers.", "stages.", "norm.")):
            try:
                filtered = checkpoint_filter_fn({source: value}, model)
            except (KeyError, RuntimeError):  # a block or a width that the encoder has not: told by the fit
                filtered = {source: value}
            yield from ((source, _own_name(name), tensor) for name, tensor in filtered.items())


def _from_timm(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Renamed:
    for source, value in state.items():
        if source.startswith(("stem.", "stages.", "head.norm.")):
            yield source, _own_name(source), value


def _from_bundle(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Renamed:
    for source, value in state.items():
        if source.startswith("encoder."):
            yield source, source.removeprefix("encoder."), value


def _own_name(timm_name: str) -> str:
    if timm_name.startswith("head.norm."):
        return timm_name.removeprefix("head.")
    return "backbone." + re.sub(r"^(stem|stages)\.(\d+)\.", r"\1_\2.", timm_name)


def _require_fit(state: Mapping[str, Any], target: Mapping[str, Tensor], path: str | Path, whose: str = "") -> None:
    def shape(tensors: Mapping[str, Any], name: str) -> str:
        return str(list(tensors[name].shape)) if name in tensors else "absent"

    names = [*target, *(n for n in state if n not in target)]
    if misfits := [n for n in names if shape(state, n) != shape(target, n)]:
        shown = "; ".join(f"{n} is {shape(state, n)} in the file, expected {shape(target, n)}" for n in misfits[:3])
        raise ValueError(
            f"{path} does not fit {whose or 'the network that it names; the file is damaged'}. "
            f"{len(misfits)} tensors differ: {shown}."
        )


def _listed(config: Mapping[str, Any], keys: list[str]) -> str:
    words = {"decoder_channels": "decoder width", "label_sets": "label sets"}
    return ", ".join(f"{words.get(key, key)} {config.get(key)}" for key in keys)


def _as_flags(config: Mapping[str, Any], keys: list[str]) -> str:
    return " ".join(f"--{key} {shlex.quote(str(config.get(key)))}" for key in keys)
