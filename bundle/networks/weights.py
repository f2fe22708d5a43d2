# SPDX-License-Identifier: Apache-2.0
"""Weights from local files: this project's checkpoints and encoder starts."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from safetensors.torch import load_file
from torch import Tensor, nn

from bundle import __version__
from bundle.described import as_flag, described_network, harmless
from bundle.failures import named
from bundle.files import OutputFolder
from bundle.networks.conversion import GUIDANCE_WEIGHT, Conversion, convert_encoder, require_fit, state_dict
from bundle.networks.published import require_size
from bundle.networks.upgrade import completed, organs_of, renamed
from bundle.vocabulary import NEUTRAL_POSITION, prompt_values

logger = logging.getLogger(__name__)

EXPORTED = (".ts", ".onnx", ".xml")
"""Suffixes of exported models."""

_NEEDED = ("encoder", "decoder_channels", "structures", "label_sets", "positions", "conditioning", "norm")
"""What versions up to 0.5.2 wrote into ``network_config`` of a whole network; later ones write ``heads`` too."""

_OF_ORGANS = {"structures", "label_sets", "positions"}
"""What derives from ``organs``, the option of the config."""


def read_file(path: str | Path) -> Any:
    """What a weights file holds; only tensors and plain values are read, no pickled code runs.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is truncated, of another kind, or holds pickled objects.
    """
    path = Path(path)
    if path.suffix in EXPORTED:
        raise ValueError(
            f"{path} must be a checkpoint (.pt, .pth or .safetensors), got an exported model; run it with --runtime and"
            f" --model_path {path} (docs/deployment.md)."
        )
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


def tensors_sha256(path: str | Path) -> str:
    """SHA-256 of the tensors of a weights file, as hexadecimal text; what the file says of itself does not count.

    Args:
        path: a checkpoint of this project, or a file of tensors alone.

    Raises:
        FileNotFoundError, ValueError: as ``read_file``.
    """
    content = read_file(path)
    digest = hashlib.sha256()
    for name, value in sorted(renamed(content.get("model", content)).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: str | Path, *, model: Mapping[str, Tensor], network_config: Mapping[str, Any]) -> None:
    """Writes a checkpoint in one step: a former file stays whole until the new one is complete on the disk.

    Raises:
        FileExistsError: when it would replace what no earlier run wrote.
    """
    path = Path(path)
    content = {"model": dict(model), "network_config": {**network_config, "version": __version__}}

    def write(new: Path) -> None:
        with new.open("wb") as file:  # of a path PyTorch would store the name
            torch.save(content, file)

    OutputFolder(path.parent, option="name").write(path.name, write, sync=True)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and ``network_config`` of a checkpoint of this project that holds a whole network.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is another file, or says of itself what is no plain value; nothing of it is executed.
    """
    content = read_file(path)
    held = (content.get(key) for key in ("model", "network_config")) if isinstance(content, dict) else ()
    if not all(isinstance(part, dict) for part in held) or not isinstance(content, dict):
        _refuse_state(content, path)
        raise ValueError(
            f"{path} must hold 'model' and 'network_config', got a file of another project; "
            "convert it with scripts/convert_checkpoint.py."
        )
    config = _whole(described_network(content["network_config"], path=path), path)
    weights = content["model"].items()
    if strange := [name for name, value in weights if not (isinstance(name, str) and isinstance(value, Tensor))]:
        shown = repr(strange[0]) if harmless(strange[0]) else "a text that is no plain name"
        raise ValueError(
            f"{path}: model must be a table of names and tensors, got a value that is none: {shown}; use a file that a "
            "training of this project wrote."
        )
    if "encoder" in config:
        require_size(content["model"], config["encoder"], path=path)
    return renamed(content["model"]), config


def _refuse_state(content: Any, path: str | Path) -> None:
    """Raises a ValueError for what a run needs to go on, which is no file of weights."""
    if isinstance(content, dict) and {"network", "average", "optimizer"} <= set(content):
        raise ValueError(
            f"{path} must hold weights, got the state that a run resumes from; give best.pt beside it, or encoder.pt of"
            " a pretraining."
        )


def _whole(config: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The ``network_config`` of a whole network, with what files of earlier versions lack."""
    if "heads" not in config and "structures" not in config:
        raise ValueError(
            f"{path} must hold a whole network, got the encoder {config.get('encoder')} alone; "
            "give it as encoder_weights."
        )
    if "heads" not in config and (missing := [key for key in _NEEDED if key not in config]):
        raise ValueError(
            f"{path}: network_config must hold {', '.join(_NEEDED)}, got none of {', '.join(missing)}; use a file that "
            "a training of this project wrote."
        )
    try:
        prompt_values(config.get("positions", [NEUTRAL_POSITION]))
    except ValueError as error:
        raise ValueError(f"{path}: network_config: {error}") from None
    return completed(config)


def load_network(network: nn.Module, path: str | Path) -> dict[str, Any]:
    """Loads a checkpoint of this project, every tensor of it, and gives its ``network_config``.

    Weights of a network without guidance channels fit one with them, which then starts blind to guidance.

    Args:
        network: a ``UPerConvNeXt``; unchanged when the checkpoint is refused.
        path: file such as ``models/model.pt``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no checkpoint of this project or was made for another network.
    """
    state, config = read_checkpoint(path)
    own: dict[str, Any] = network.network_config()  # type: ignore[operator]
    state, config = complete(state, config, network=network)
    require_same(config, own, keys=own, path=path)
    require_fit(state, network.state_dict(), path=path)
    network.load_state_dict(state)
    return config


def complete(
    state: dict[str, Tensor], config: dict[str, Any], *, network: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint with what files from before there was guidance lack: no channels, or channels that do nothing."""
    channels = network.network_config()["guidance_channels"]  # type: ignore[operator]
    name = f"encoder.{GUIDANCE_WEIGHT}"
    if channels and not config["guidance_channels"] and (weight := network.state_dict().get(name)) is not None:
        state = {**state, name: torch.zeros_like(weight)}
        config = {**config, "guidance_channels": channels}
    return state, config


def require_same(config: Mapping[str, Any], own: Mapping[str, Any], *, keys: Iterable[str], path: str | Path) -> None:
    """Raises a ValueError that names what differs between a checkpoint's ``network_config`` and a network's."""
    differing = [key for key in keys if config.get(key) != own[key]]
    if "parts" in differing:
        roles = [role for role, part in own["parts"].items() if config["parts"].get(role) != part]
        raise ValueError(
            f"{path} was made with {_classes(config, roles)}; this network has {_classes(own, roles)}; build the "
            "network of the parts that the file was made with (network_def in the config), or use other weights."
        )
    if {"structures", "label_sets"} & set(differing):  # they tell the same, by options
        differing = [key for key in differing if key != "heads"]
    if differing:
        raise ValueError(
            f"{path} was made with {_listed(config, differing)}; this network has {_listed(own, differing)}; "
            f"{_remedy(config, differing)}."
        )


class WeightsLoader:
    """Handler that loads a checkpoint into the network before an evaluation or inference starts.

    MONAI's ``CheckpointLoader`` neither says which network a file was made for nor stops on missing weights.

    Args:
        network: a ``UPerConvNeXt``.
        path: file such as ``models/model.pt``.
    """

    def __init__(self, network: nn.Module, path: str) -> None:
        self.network = network
        self.path = path

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an engine; raises as ``load_network`` when that starts."""
        engine.add_event_handler(Events.STARTED, lambda: load_network(self.network, self.path))


def require_encoder(content: Any, *, name: str, path: str | Path) -> None:
    """Raises a ValueError for a file that says of itself that it is of another encoder, or no weights."""
    _refuse_state(content, path)
    if isinstance(content, dict) and "network_config" in content:
        made_with = described_network(content["network_config"], path=path).get("encoder")
        if made_with != name:
            raise ValueError(
                f"{path} was made with encoder {made_with}; this one is {name}; use --encoder {made_with}."
            )


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
    require_encoder(content, name=name, path=path)
    conversion = convert_encoder(state_dict(content, path), encoder, name=name, path=path)
    encoder.load_state_dict(conversion.state, strict=False)
    random = f"; random: {named(conversion.untouched)}" if conversion.untouched else ""
    logger.info(f"encoder {name} starts from {path}: {len(conversion.taken)} tensors{random}")
    return conversion


def _listed(config: Mapping[str, Any], keys: list[str]) -> str:
    words = {"decoder_channels": "decoder width", "label_sets": "label sets"}
    return ", ".join(
        f"{words.get(key, key)} {config.get(key) if harmless(config.get(key)) else 'with names of other characters'}"
        for key in keys
    )


def _classes(config: Mapping[str, Any], roles: list[str]) -> str:
    parts = {role: config["parts"].get(role, {"class": "none"}) for role in roles}
    return ", ".join(
        f"{role} {part['class'] if list(part) == ['class'] or not harmless(part) else part}"
        for role, part in parts.items()
    )


def _with_organs(config: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's ``network_config`` with its table of organs; None where it cannot be told."""
    try:
        return {**config, "organs": organs_of(config, path="")}
    except ValueError:
        return {**config, "organs": None}


def _remedy(config: Mapping[str, Any], keys: list[str]) -> str:
    """The options that fit a checkpoint; without its values where one has other than harmless characters."""
    if options := [key for key in keys if key != "heads"]:
        if set(options) & _OF_ORGANS:
            config, options = _with_organs(config), [*(key for key in options if key not in _OF_ORGANS), "organs"]
        if all(harmless(config.get(key)) and config.get(key) is not None for key in options):
            return f"use {' '.join(as_flag(key, config.get(key)) for key in options)}, or other weights"
        return f"set {', '.join(options)} in the config to what whoever made the file says, or use other weights"
    return (
        "add the block of a task that is missing here to tasks in the config, train a network of these heads from it "
        "(--start_weights), or use other weights"
    )
