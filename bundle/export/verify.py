# SPDX-License-Identifier: Apache-2.0
"""Whether an exported file computes what the network computes: by its outputs, or by its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bundle.engines.handlers import SCORE_NAMES
from bundle.engines.runtimes import ExportedNetwork
from bundle.export.source import Source

MAX_DIFFERENCE = 1e-4
"""Of any logit of a float32 model from eager."""

MAX_DROPS = {"val_dice": 0.002, "val_auroc": 0.01}
"""Of the validation split's mean Dice and mean AUROC, for bfloat16 and int8."""


class Refused(ValueError):
    """The exported model does not compute what the network computes."""


@dataclass(frozen=True)
class Scores:
    """Scores of a network on the validation split.

    Attributes:
        values: ``val_dice`` and ``val_auroc``, as far as the split has masks and classes, in [0, 1].
    """

    values: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{SCORE_NAMES[name]} {value:.4f}" for name, value in self.values.items())


class WithEager(nn.Module):
    """The outputs that an exported model computes, and eager's for those that it leaves out."""

    def __init__(self, exported: ExportedNetwork, network: nn.Module) -> None:
        super().__init__()
        self.exported, self.network = exported, network

    def predict(self, image: Tensor, prompt: Tensor | None = None) -> dict[str, Tensor]:
        """As :meth:`bundle.networks.UPerConvNeXt.predict`."""
        return {**self.network.predict(image, prompt), **self.exported.predict(image, prompt)}  # type: ignore[operator]


def largest_difference(
    exported: ExportedNetwork, network: nn.Module, *, image_size: int, outputs: Sequence[str]
) -> float:
    """Largest absolute difference of any logit of ``outputs``, over several sizes and batches of random images.

    Raises:
        Refused: when an output is missing, of another shape, or not finite.
    """
    random = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch, height, width in [(1, image_size, image_size), (3, image_size, image_size), (2, 32, 96), (1, 352, 288)]:
        image = torch.randn(batch, exported.image_channels, height, width, generator=random)
        image[:, 3:] = (image[:, 3:] > 1.5).float()
        prompt = (torch.rand(batch, len(exported.metadata["prompt"]["neutral"]), generator=random) > 0.7).float()
        with torch.inference_mode():
            expected = network.predict(image, prompt)  # type: ignore[operator]
        found = exported.predict(image, prompt)
        for name in outputs:
            logits = expected[name]
            if name not in found or found[name].shape != logits.shape or not found[name].isfinite().all():
                got = f"{list(found[name].shape)} or values not finite" if name in found else "none"
                raise Refused(
                    f"output {name} of an image {list(image.shape)} must be finite, {list(logits.shape)}, got {got}"
                )
            largest = max(largest, float((found[name] - logits).abs().max()))
    return largest


def check_outputs(exported: ExportedNetwork, source: Source, *, precision: str, outputs: Sequence[str]) -> float:
    """The largest difference from eager; only float32 is held to a limit.

    Raises:
        Refused: when an output has another shape, is not finite, or a float32 one differs.
    """
    difference = largest_difference(exported, source.network, image_size=source.value("image_size"), outputs=outputs)
    if precision == "float32" and not difference <= MAX_DIFFERENCE:
        raise Refused(f"logits must differ by at most {MAX_DIFFERENCE:g} from eager, got {difference:.3g}")
    return difference


def scores(source: Source, network: nn.Module) -> Scores:
    """A network's scores on the validation split, by the evaluation of the config.

    Args:
        source: its config says what is evaluated and how.
        network: eager or exported.

    Raises:
        ValueError: when the split has nothing to score.
    """
    config = source.config
    config["validate#handlers"] = [{"_target_": "ignite.handlers.ProgressBar", "persist": False}]
    config["validate#evaluator#network"] = None
    evaluator = config.get_parsed_content("validate#evaluator")
    evaluator.network = network
    evaluator.run()
    found: dict[str, Any] = evaluator.state.metrics
    values = {name: float(found[name]) for name in MAX_DROPS if name in found}
    if not values:
        raise ValueError(
            f"validation split of {source.value('datalist')} must have masks or classes to compare precisions by, got "
            "none; give another --datalist."
        )
    return Scores(values)


def check_scores(found: Scores, eager: Scores) -> None:
    """Holds a model of reduced precision to eager's scores.

    Raises:
        Refused: when a score drops by more than its limit.
    """
    for name, limit in MAX_DROPS.items():
        if name in eager.values and not eager.values[name] - found.values[name] <= limit:
            raise Refused(
                f"{SCORE_NAMES[name]} on the validation split must drop by at most {limit:g} from eager's "
                f"{eager.values[name]:.4f}, got {found.values[name]:.4f}"
            )
