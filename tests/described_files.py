# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that say of themselves what a test wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bundle.networks import UPerConvNeXt, build_uperconvnext

PLAIN: dict[str, Any] = {
    "encoder": "test_convnext",
    "decoder_channels": 16,
    "structures": ["background", "lesion"],
    "label_sets": {"breast": ["benign", "malignant"]},
    "positions": ["breast", "indis"],
    "conditioning": "film",
    "norm": "group",
    "pooling": "avg",
    "guidance_channels": 0,
}
EXPORTED: dict[str, Any] = {
    "structures": ["background", "lesion"],
    "label_sets": {"breast": ["benign", "malignant"]},
    "positions": ["breast", "indis"],
    "image_size": 64,
    "outputs": ["seg", "cls_breast"],
    "image_channels": ["red", "green", "blue"],
    "prompt": {"neutral": [0.0, 1.0]},
}
PAYLOAD = "$__import__('pathlib').Path('EXECUTED').touch()"


def small(**changes: Any) -> UPerConvNeXt:
    torch.manual_seed(0)
    return build_uperconvnext(**{**PLAIN, **changes})


def hostile(path: Path, key: str, value: Any) -> Path:
    torch.save({"model": small().state_dict(), "network_config": {**PLAIN, key: value}}, path)
    return path
