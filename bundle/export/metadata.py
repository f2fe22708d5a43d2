# SPDX-License-Identifier: Apache-2.0
"""What an exported file says of itself: all that is needed to make its inputs and to read its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bundle import __version__
from bundle.export.source import Source
from bundle.files import sha256
from bundle.guidance import GUIDANCE_CHANNELS
from bundle.vocabulary import encode_prompt, prompt_values

LETTERBOX = (
    "scale the RGB image in [0, 1] so that its longest side has image_size pixels, the other in proportion (rounded, "
    "at least 1), bilinear with antialiasing as Pillow does; pad with 0 to a square, floor(missing / 2) pixels before; "
    "then subtract image_mean and divide by image_std; guidance channels, in [0, 1], follow, 0 without clicks"
)
PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
"""Precision of what is not int8, as OpenVINO calls it: it must be told, or it takes bfloat16 where the CPU has it."""

TOLD = ("image_size", "image_mean", "image_std", "click_radius", "organs", "gate", "organ_points", "point_pairs")
"""Ids of the config that exported models tell as they are."""


def describe(source: Source, *, precision: str, outputs: Sequence[str], kept: Sequence[str] = ()) -> dict[str, Any]:
    """The metadata of an exported file, plain values.

    Args:
        source: what is exported; the constants come from its config.
        precision: float32, bfloat16 or int8.
        outputs: names of the model's outputs, in order.
        kept: parts of the network that int8 leaves out.
    """
    organs = source.value("vocabulary")
    reading = {task.name: task.reading for task in source.value("declared")}
    guidance = GUIDANCE_CHANNELS[: source.network.guidance_channels]
    return {
        "name": "ultrasound-uperconvnext",
        "version": __version__,
        "weights_sha256": sha256(source.weights),
        "precision": precision,
        "precision_hint": PRECISION_HINTS[precision],
        "kept": list(kept),
        "inputs": ["image", "prompt"],
        "image_channels": ["red", "green", "blue", *guidance],
        "letterbox": LETTERBOX,
        "prompt": {
            "order": {name: list(values) for name, values in prompt_values(organs.positions).items()},
            "neutral": encode_prompt({}, organs.positions),
        },
        "outputs": list(outputs),
        "output_values": {name: reading[name] for name in outputs},
        **{name: source.value(name) for name in TOLD},
        "structures": organs.structures,
        "label_sets": organs.label_sets,
        "positions": organs.positions,
        "network": source.network.network_config(),
    }


def as_text(metadata: Mapping[str, Any]) -> str:
    """The metadata as the one JSON that a file holds."""
    return json.dumps(metadata, ensure_ascii=True, allow_nan=False)
