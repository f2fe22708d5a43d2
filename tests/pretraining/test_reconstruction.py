# SPDX-License-Identifier: Apache-2.0
"""The error counts on what was hidden."""

import pytest
import torch
from torch import Tensor

from bundle.networks.encoder import ConvNeXtEncoder
from bundle.pretraining import MaskedReconstruction, Pretraining, TotalLoss
from bundle.pretraining.reconstruction import spectral_error, standardized


class Painter(MaskedReconstruction):
    """Reconstructs what it is told to."""

    def __init__(self, told: Tensor, **options: float) -> None:
        super().__init__([8, 8, 8, 8], width=16, **options)  # type: ignore[arg-type]
        self.told = told

    def reconstruct(self, image: Tensor, encode: object) -> Tensor:
        return self.told


def loss(told: Tensor, image: Tensor, **options: float) -> float:
    return float(Painter(told, **options)(image, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(("patch_ratio", "band_share"), [(0.5, 0.0), (0.5, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_a_perfect_reconstruction_costs_nothing(patch_ratio: float, band_share: float) -> None:
    image = torch.rand(6, 3, 64, 64)
    told = standardized(image.mean(1, keepdim=True))
    assert loss(told, image, patch_ratio=patch_ratio, band_share=band_share) == pytest.approx(0.0, abs=1e-5)


def test_the_mean_image_costs_the_variance_of_what_was_hidden() -> None:
    torch.manual_seed(0)
    image = torch.rand(6, 3, 64, 64)
    zero = torch.zeros(6, 1, 64, 64)
    assert loss(zero, image, patch_ratio=0.5, band_share=0.0) == pytest.approx(1.0, abs=0.05)
    assert loss(zero, image, patch_ratio=0.0, band_share=0.0) == pytest.approx(1.0, abs=0.01)
    assert loss(zero, image, band_share=1.0, spectrum_weight=0.5) == pytest.approx(0.5, abs=1e-3)  # all of the energy


def test_what_was_shown_does_not_count() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 64, 64)
    painter = Painter(torch.empty(0), patch_ratio=0.5, band_share=0.0)
    torch.manual_seed(1)
    _, hidden, _ = painter.masked(image)
    truth = standardized(image.mean(1, keepdim=True))
    painter.told = torch.where(hidden, truth, truth + 5)
    torch.manual_seed(1)
    assert float(painter(image, None)) == pytest.approx(0.0, abs=1e-6)  # type: ignore[arg-type]


def test_spectral_error_is_the_share_of_the_energy_that_is_wrong() -> None:
    truth = torch.rand(2, 1, 32, 32)
    stopped = torch.ones(2, 1, 32, 17, dtype=torch.bool)
    assert spectral_error(0.5 * truth, truth, stopped) == pytest.approx(0.25, abs=1e-5)
    assert spectral_error(truth, truth, stopped) == pytest.approx(0.0, abs=1e-6)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    encoder = ConvNeXtEncoder("test_convnext", pooling="avgmax")
    objective = MaskedReconstruction(encoder.channels, width=16)
    network = Pretraining(encoder, {"reconstruction": objective}, mean=[0.5] * 3, std=[0.25] * 3).train()
    image = torch.rand(4, 3, 64, 96)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    losses = []
    for _ in range(25):
        total = TotalLoss()(network(image), image)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        losses.append(total.item())
        optimizer.step()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in dead if not name.startswith("encoder.norm")] == []  # the pooled vector is not used
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
