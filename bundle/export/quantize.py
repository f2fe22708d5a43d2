# SPDX-License-Identifier: Apache-2.0
"""Models in int8, by post-training quantization with training images."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bundle.engines.runtimes import require_package
from bundle.export.formats import quiet
from bundle.export.source import Source
from bundle.guidance import draw_guidance

CLICKED = 3
"""Every third calibration image has clicks: where none were seen, int8 would cut off what clicks cause."""


class CalibrationImages:
    """Training images as the network sees them in inference, each made when it is asked for.

    Args:
        source: its config's validation transforms make the images.
        count: how many; fewer when the split has fewer.
        seed: draws the images and the clicks.
    """

    def __init__(self, source: Source, *, count: int, seed: int) -> None:
        config = source.config
        split = config["validate#dataset#data#split"]
        config["validate#dataset#data#split"] = "train"
        self.dataset = config.get_parsed_content("validate#dataset")
        config["validate#dataset#data#split"] = split
        self.indices = random.Random(seed).sample(range(len(self.dataset)), min(count, len(self.dataset)))
        self.guidance = source.network.guidance_channels
        self.radius, self.seed = float(source.value("click_radius")), seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (1, C, H, W) and ``prompt`` (1, P), float32 arrays."""
        item = self.dataset[self.indices[index]]
        image: Tensor = item["image"].as_tensor()
        if self.guidance:
            image = torch.cat([image, self._clicks(index, image.shape[1:])])
        prompt = torch.as_tensor(item["prompt"], dtype=torch.float32).reshape(1, -1)
        return {"image": image[None].float().numpy(), "prompt": prompt.numpy()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _clicks(self, index: int, size: Sequence[int]) -> Tensor:
        place = random.Random(f"{self.seed} {index}")
        points = [(place.uniform(0, size[0]), place.uniform(0, size[1])) for _ in range(2)]
        if index % CLICKED:
            return torch.zeros(self.guidance, *size)
        return draw_guidance(size, wanted=points[:1], unwanted=points[1:], radius=self.radius)


def operations(model: Any, modules: Sequence[str]) -> list[str]:
    """Names of the operations of an ``openvino.Model`` that belong to modules of the traced network."""
    starts = tuple(f"__module.{name}{end}" for name in modules for end in "./")
    return [name for op in model.get_ops() if (name := op.get_friendly_name()).startswith(starts)]


def quantize(model: Any, images: CalibrationImages, *, kept: Sequence[str]) -> Any:
    """An ``openvino.Model`` with int8 convolutions and matrix products.

    Args:
        model: float32; its operations are named after the network's modules.
        images: calibration images.
        kept: names of modules that are not quantized.
    """
    nncf = require_package("nncf")
    names = operations(model, kept)
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            # smooths what convolutions get and leaves sums and products alone: half of the error, the same time
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=names, validate=False),
        )
