# SPDX-License-Identifier: Apache-2.0
"""The options that a run was given: each must be an id of its config, text where that wants text, and in range."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pydoc import locate
from types import FrameType
from typing import Any

import torch
from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow, ReferenceResolver, update_kwargs
from monai.bundle.scripts import run, run_workflow

from bundle.described import EXPRESSION_MARKS
from bundle.vocabulary import RESTORE, TASKS, UNKNOWN

PATHS = {
    "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "ckpt_path", "cache_dir", "datalist", "encoder_weights",
    "start_weights", "model_path", "prompts", "phantom_dir", "teacher_weights",
    "manifest",
}  # fmt: skip
NAMES = {
    "position", "nature", "task", "runtime", "encoder", "conditioning", "norm", "pooling", "split", "protocol",
    "allow_leaks", "teacher", "fetal_head",
}  # fmt: skip
TRACKING = {"tracking_uri", "experiment_name", "run_name", "save_execute_config"}
"""Ids that belong to MONAI's ``tracking``; MONAI Label sets them."""

NUMBERS: dict[str, tuple[bool, float, float]] = {
    **dict.fromkeys(
        ("max_epochs", "batch_size", "val_interval", "samples_per_epoch", "num_threads"), (True, 1, math.inf)
    ),
    **dict.fromkeys(
        (
            "phantom_patients",
            "labels_steps",
            "bootstrap_resamples",
            "max_clicks",
            "frames_per_clip",
            "lanes",
            "runtime_threads",
        ),
        (True, 1, math.inf),
    ),
    **dict.fromkeys(("num_workers", "seed", "fold", "worst_cases"), (True, 0, math.inf)),
    **dict.fromkeys(("learning_rate", "max_norm", "click_radius"), (False, 5e-324, math.inf)),
    **dict.fromkeys(
        ("labels_learning_rate", "weight_decay", "warmup_epochs", "cache_disk_gb", "cache_memory_gb"),
        (False, 0, math.inf),
    ),
    "patch": (True, 1, math.inf),
    "frames": (True, 0, math.inf),
    **dict.fromkeys(("patch_ratio", "band_share"), (False, 0, 1)),
    "spectrum_weight": (False, 0, math.inf),
    "layer_decay": (False, 5e-324, 1),
    **dict.fromkeys(("drop_prompts", "local_crops", "empty_crops", "cutmix_prob"), (False, 0, 1)),
    **dict.fromkeys(("interaction_prob", "small_share"), (False, 0, 1)),
    **dict.fromkeys(("dropout", "drop_path", "ema_decay", "labels_aside", "unfreeze_share"), (False, 0, 0.9999)),
    **dict.fromkeys(("image_size", "small_side"), (True, 32, 2048)),
}
"""Id -> whether it is a whole number, the lowest and the highest value; ``_OPTIONAL`` may be None too."""

_SIDES = ("image_size", "small_side")
"""Numbers of pixels that must be multiples of 32."""

_OPTIONAL = ("samples_per_epoch", "fold", "runtime_threads")

OF_ORGANS = ("structures", "positions", "label_sets", "organ_structures")
"""What the table ``organs`` tells; up to version 0.6 each was an id that a run could set."""


def check_options() -> None:
    """Refuses what MONAI passes over in silence: an id that no config has, None, a number where text is wanted.

    And numbers out of range, which else end a run after it has moved an earlier one aside.

    To be called by a config's ``run``, before all else. MONAI tells a config neither the files that it was read from
    nor what the command line, ``args_file`` or the caller set; both stand in the frames of its own functions. A
    workflow that was built without ``monai.bundle.run`` and ``run_workflow`` has its text looked at alone.

    Raises:
        ValueError: with the nearest id, or the way to write the text.
    """
    for frame in _callers():
        values = frame.f_locals
        if frame.f_code is ConfigWorkflow.run.__code__:
            for name, value in values["self"].parser.config.items():
                _check_text(name, name, value)
                _check_numbers(name, name, value)
        elif frame.f_code is run.__code__:
            given = {"config_file": values["config_file"], **values["override"]}
            _check_ids(_merged(values["args_file"], given))
        elif frame.f_code is run_workflow.__code__:
            _check_ids(_merged(values["args_file"], values["kwargs"]))


OPEN = ("organs", "tasks", "sinks", "named_handlers")
"""Tables whose entries have names of the user's: an id may add one."""


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _merged(args_file: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What MONAI makes of ``args_file`` and the options, and the options that it leaves out: those that are None."""
    merged: dict[str, Any] = update_kwargs(args_file, **given)
    return {**{option: value for option, value in given.items() if value is None}, **merged}


def _check_ids(given: Mapping[str, Any]) -> None:
    """Refuses ids that the config files, MONAI and the arguments of components do not know."""
    arguments = {*inspect.signature(ConfigWorkflow).parameters, *inspect.signature(run).parameters, "workflow_name"}
    known = arguments - {"override"} | TRACKING | {ConfigParser.meta_key}
    parser = ConfigParser(ConfigParser.load_config_files(given["config_file"]))
    if own := [name for name in OF_ORGANS if parser.config.get(name) not in (None, f"$@vocabulary.{name}")]:
        raise ValueError(
            f"{own[0]} must be told by organs, got a config file with {own[0]} of its own; write organs there: NAME -> "
            "{structures: [...], classes: [...]}."
        )
    for option, value in given.items():
        ids = ReferenceResolver.split_id(option.lstrip("+"))
        if ids[0] in known:
            continue
        if ids[0] in OF_ORGANS:
            raise ValueError(
                f"--{option} must be told by organs, got an option of its own; train with --organs#NAME "
                "\"{'structures': [...], 'classes': [...]}\", and leave it out elsewhere: the weights tell it."
            )
        node: Any = parser.config
        for place, key in enumerate(ids):
            allowed = _keys(node, top=node is parser.config)
            added = place == len(ids) - 1 and place > 0 and ids[place - 1] in OPEN
            if allowed is not None and key not in allowed and not added:
                raise ValueError(_unknown(option, key, allowed | (known if node is parser.config else set())))
            node = _child(node, key)
        _check_text(option, ids[-1], value)
        if value is None and node is not None:
            raise ValueError(
                f"--{option} must have a value, got None, which MONAI leaves out, so that {node!r} would hold; write "
                f"--{option} '$None' for none."
            )
        parser[option.lstrip("+")] = value


def _keys(node: Any, *, top: bool) -> set[str] | None:
    """The keys that a part of a config may have; None: any."""
    if isinstance(node, list):
        return {str(index) for index in range(-len(node), len(node))}
    if not isinstance(node, dict):
        return None
    if ConfigComponent.is_instantiable(node):
        parameters = _parameters(node)
        return None if parameters is None else {*node, *parameters, *ConfigComponent.non_arg_keys}
    section = top or any(isinstance(value, dict) and "_target_" in value for value in node.values())
    return set(node) if section else None  # a table, such as organs: its keys are data


def _parameters(node: Mapping[str, Any]) -> set[str] | None:
    """Names of a component's arguments; None where it takes any, or cannot be found."""
    name = ConfigComponent(config=node).resolve_module_name()
    component = locate(name) if isinstance(name, str) and not name.startswith("$") else name
    if not callable(component):
        return None
    parameters = inspect.signature(component).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else set(parameters)


def _child(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    return node[int(key)] if isinstance(node, list) else None


def _unknown(option: str, key: str, allowed: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(allowed), n=1)
    ids = ReferenceResolver.split_id(option)
    remedy = "the ids are those of the config files"
    if near:
        remedy = "did you mean --" + "#".join([near[0] if part == key else part for part in ids]) + "?"
    return f"--{option} must be an id of the config, got {key!r}, which no config has; {remedy}"


def _check_text(option: str, key: str, value: Any) -> None:
    """Refuses what is neither text nor None, where a path or a name is wanted; a component may make the text.

    And text that names no device or task, or is a folder's name that would be evaluated.
    """
    if isinstance(value, str):
        _check_words(option, key, value)
    if key not in PATHS | NAMES or value is None or isinstance(value, (str, Mapping)):
        return
    typed = _typed(option)
    remedy = f"correct --{option}."
    if key in PATHS:
        example = (
            f"--{option} ./2024 for the folder 2024" if typed is None else f"--{option} {shlex.quote(f'./{typed}')}"
        )
        remedy = f"put ./ before a path that reads like a number or a list: {example}."
    read = f"{value!r} ({type(value).__name__})"
    raise ValueError(f"{option} must be text, got {read if typed is None else f'{typed}, read as {read}'}; {remedy}")


def _check_words(option: str, key: str, value: str) -> None:
    """Refuses text that its option cannot take; expressions are not looked into."""
    if value.startswith(EXPRESSION_MARKS):
        if key in PATHS and os.path.exists(value):
            told = shlex.quote(f"./{value}")
            raise ValueError(
                f"--{option} must be a path that does not begin with $, @ or %, which would be evaluated, got "
                f"{value!r}; write --{option} {told}."
            )
    elif option == "task" and value not in (*(tasks := (*TASKS, RESTORE, UNKNOWN)), ""):
        raise ValueError(f"--task must be one of {list(tasks)}, got {value!r}; correct it, or use {UNKNOWN!r}.")
    elif key == "device":
        try:
            torch.device(value)
        except RuntimeError as error:
            raise ValueError(
                f"--{option} must be a device such as cpu, cuda or cuda:1, got {value!r}; correct it, or leave it out."
            ) from error


def _typed(option: str) -> str | None:
    """What the command line of this process gives an option; None where it does not."""
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == option:
            return value if equals else following
    return None


def _check_numbers(option: str, key: str, value: Any) -> None:
    """Refuses numbers out of range in an entry of a config and in all below it; expressions are not looked into."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_numbers(f"{option}#{name}", name, part)
    if key not in NUMBERS or isinstance(value, Mapping) or (value in (None, "$None") and key in _OPTIONAL):
        return
    if isinstance(value, str) and value.startswith(EXPRESSION_MARKS) and value != "$None":
        return
    whole, low, high = NUMBERS[key]
    kinds, step = (int, 32 if key in _SIDES else 1) if whole else ((int, float), 0)
    right = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high and math.isfinite(value)
    if not right or (step and value % step):
        least = "above 0" if 0 < low < 1 else f"from {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
        none = ", or '$None'" if key in _OPTIONAL else ""
        kind = ("whole number" if step == 1 else f"multiple of {step}") if whole else "number"
        raise ValueError(f"--{option} must be a {kind} {least}{none}, got {value!r}; correct it.")
