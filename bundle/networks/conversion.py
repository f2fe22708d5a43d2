# SPDX-License-Identifier: Apache-2.0
"""Other people's weights turned into ours: the paper authors', facebookresearch's and timm's layouts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor, nn

from bundle.failures import named, one_line
from bundle.vocabulary import PAPER_POSITIONS

AUTHORS_NETWORK: dict[str, Any] = {
    "encoder": "convnext_tiny",
    "decoder_channels": 256,
    "structures": ["background", "foreground"],
    "label_sets": {"two": ["class_0", "class_1"], "four": ["class_0", "class_1", "class_2", "class_3"]},
    "positions": list(PAPER_POSITIONS),
    "norm": "batch",
    "pooling": "avg",
    "guidance_channels": 0,
}
"""Arguments of ``build_uperconvnext`` for the authors' checkpoints; ``conditioning`` follows from the checkpoint."""

GUIDANCE_WEIGHT = "backbone.stem_0.guidance.weight"
"""The encoder's weights for guidance channels, which weights of a network without guidance lack."""

_AUTHORS_UNUSED = ("seg_head.backbone.", "backbone.head.")
_AUTHORS_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^seg_head\.ppm\.cba(\d)\.", lambda m: f"decoder.ppm.branches.{int(m[1]) - 1}."),
    (r"^seg_head\.ppm\.out\.", "decoder.ppm.fusion."),
    (r"^seg_head\.fpn\.fpn_in\.fpn_layer(\d)\.", lambda m: f"decoder.laterals.{3 - int(m[1])}."),
    (r"^seg_head\.fpn\.fpn_out\.fpn_layer(\d)\.", lambda m: f"decoder.smooths.{3 - int(m[1])}."),
    (r"^seg_head\.fuse\.", "decoder.fusion."),
    (r"^seg_head\.seg\.0\.", "decoder.block."),
    (r"^seg_head\.seg\.1\.", "heads.seg.classifier."),
    (r"^seg_head\.out\.", "heads.seg.refine."),
    (r"\.bn\.", ".norm."),
    (r"^cls_head_2cls\.", "heads.cls_two.linear."),
    (r"^cls_head_4cls\.", "heads.cls_four.linear."),
    (r"^dec_prompt_mlp\.", "prompter.feature_prompt.linear."),
    (r"^prompt_scale_cls$", "prompter.feature_prompt.gate"),
    (r"^prompt_proj_layers\.(\d)\.", r"prompter.level_prompts.\1.linear."),
    (r"^prompt_scale_seg\.(\d)$", r"prompter.level_prompts.\1.gate"),
)

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Kinds of number that weights may have; those of 8 bits and fewer have no such meaning without a scale."""

Renamed = Iterator[tuple[str, str, Tensor]]  # name in the source, our name, value


@dataclass(frozen=True)
class Conversion:
    """Converted weights and what became of every name.

    ``taken`` and ``ignored`` are names of the source; ``untouched`` are names of the network without a value in it.
    """

    state: dict[str, Tensor]
    taken: list[str]
    ignored: list[str]
    untouched: list[str]


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
    if (layout := detect_layout(inner, path)) == "authors":
        raise ValueError(
            f"{path} must hold an encoder, got a whole network of the paper's authors; convert it with "
            "scripts/convert_checkpoint.py, and start from the result with --start_weights."
        )
    rename = {"facebook": _from_facebook, "timm": _from_timm, "bundle": _from_bundle}[layout]
    converted: dict[str, Tensor] = {}
    taken: list[str] = []
    for source, key, value in rename(inner, target):
        if key in target or key != GUIDANCE_WEIGHT:  # an encoder without clicks has no use for it
            converted[key] = value
            taken.append(prefix + source)
    untouched = [n for n in target if n not in converted]
    # A head-less variant may lack the last norm; a backbone with holes would be random in part.
    optional = {n: target[n] for n in untouched if n.startswith("norm.") or n == GUIDANCE_WEIGHT}
    require_fit(
        {**optional, **converted}, target, path=path, whose=f"encoder {name}; choose the --encoder they were made with"
    )
    return Conversion(converted, taken, [n for n in state if n not in set(taken)], untouched)


def authors_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``build_uperconvnext`` for a checkpoint of the authors, with or without prompts."""
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
    converted |= {_from_authors(n): state[n] for n in rest}
    if mean is not None and std is not None:
        converted |= _fold_normalization(converted, mean=mean, std=std, prefix="encoder.backbone.stem_0.")
    require_fit(converted, network.state_dict(), path=path, whose="the paper's network; see AUTHORS_NETWORK")
    return Conversion(converted, encoder.taken + rest, ignored, [])


def require_fit(state: Mapping[str, Any], target: Mapping[str, Tensor], *, path: str | Path, whose: str = "") -> None:
    """Refuses weights whose names, shapes or kinds of number are not those of a network, or that are not finite.

    Args:
        state: the weights.
        target: the network's state dict.
        path: the file that they came from, for the message.
        whose: what they ought to fit, for the message.

    Raises:
        ValueError: naming the first three tensors that differ, or are not finite.
    """

    def form(tensors: Mapping[str, Any], name: str) -> str:
        return tensor_form(tensors[name]) if name in tensors else "absent"

    names = [*target, *(n for n in state if n not in target)]
    if misfits := [n for n in names if form(state, n) != form(target, n)]:
        shown = "; ".join(
            f"{one_line(n)} is {form(state, n)} in the file, expected {form(target, n)}" for n in misfits[:3]
        )
        raise ValueError(
            f"{path} does not fit {whose or 'the network that it names; the file is damaged'}. "
            f"{len(misfits)} tensors differ: {shown}."
        )
    if broken := [name for name in target if not _finite(state[name])]:
        raise ValueError(
            f"{path}: weights must be finite in float32, got NaN or infinite values in {named(broken, at_most=3)}; use"
            " weights from before their training diverged."
        )


def _finite(value: Tensor) -> bool:
    """Whether dense floats stay numbers in float32, which the network has; others are refused for their form."""
    return not _dense_floats(value) or bool(torch.isfinite(value.float()).all())


def _dense_floats(value: Tensor) -> bool:
    dense = value.layout == torch.strided and value.device.type != "meta" and not value.is_nested
    return dense and value.dtype in _FLOATS


def tensor_form(value: Tensor) -> str:
    """Shape, and what keeps a tensor from being a dense one of floats, such as whole numbers."""
    if value.is_nested:
        return "nested"  # and has no shape
    shape = str(list(value.shape))
    if _dense_floats(value):
        return shape
    if value.device.type == "meta":
        return f"{shape} of meta"
    kind = value.dtype if value.layout == torch.strided else value.layout
    return f"{shape} of {str(kind).removeprefix('torch.')}"


def _fold_normalization(
    state: Mapping[str, Tensor], *, mean: Sequence[float], std: Sequence[float], prefix: str
) -> dict[str, Tensor]:
    weight, bias = state[prefix + "weight"], state[prefix + "bias"]
    rgb = weight.double().flip(1)
    scale = torch.tensor(std, dtype=torch.float64)[:, None, None]
    shift = torch.tensor(mean, dtype=torch.float64)[:, None, None]
    return {
        prefix + "weight": (rgb * scale).to(weight.dtype),  # values = normalized * std + mean
        prefix + "bias": (bias.double() + (rgb * shift).sum((1, 2, 3))).to(bias.dtype),
    }


def _from_authors(name: str) -> str:
    for pattern, replacement in _AUTHORS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


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
