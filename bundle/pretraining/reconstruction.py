# SPDX-License-Identifier: Apache-2.0
"""Masked reconstruction: an encoder learns to fill in what is hidden of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.networks import UPerNetDecoder
from bundle.pretraining.distillation import Encode
from bundle.pretraining.masking import band_mask, patch_mask, with_noise, without_bands


class MaskedReconstruction(nn.Module):
    """Squared error of an image that is reconstructed from one with noise in patches and without bands of frequencies.

    Each image loses patches (``patch_ratio``) or, with probability ``band_share``, a ring of its spectrum. The error
    counts on what was hidden: hidden pixels, and hidden frequencies. Images are compared in gray, with each image's
    mean and deviation taken out. With both ratios 0 it is a plain autoencoder, whose error counts everywhere.

    Args:
        channels: of the encoder's maps, strides 4 to 32.
        width: channels of the decoder, a UPerNet; made of ``width`` as in training it can go on there.
        patch: side of a patch, in pixels.
        patch_ratio: share of an image's patches.
        band_share: share of the images that lose frequencies in place of patches.
        band_center, band_width: ranges of the ring's radius and width; 1 is the Nyquist frequency.
        spectrum_weight: weight of the error in the spectrum.

    Reference:
        Jiao et al. 2024 (USFM), doi 10.1016/j.media.2024.103202. USF-MAE (2025) hides patches alone: ``band_share`` 0.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 96,
        patch: int = 32,
        patch_ratio: float = 0.5,
        band_share: float = 0.5,
        band_center: Sequence[float] = (0.05, 0.6),
        band_width: Sequence[float] = (0.1, 0.3),
        spectrum_weight: float = 0.5,
    ) -> None:
        super().__init__()
        for name, span in (("band_center", band_center), ("band_width", band_width)):
            if not isinstance(span, Sequence) or len(span) != 2 or not 0 <= span[0] <= span[1] <= 1 or span[1] <= 0:
                raise ValueError(
                    f"{name} must be the two ends of a range in [0, 1], 1 being the Nyquist frequency, got {span!r}; "
                    "correct it."
                )
        self.patch, self.patch_ratio, self.band_share = patch, patch_ratio, band_share
        self.band_center, self.band_width, self.spectrum_weight = tuple(band_center), tuple(band_width), spectrum_weight
        self.decoder = UPerNetDecoder(in_channels=list(channels), channels=width, norm="group")
        self.pixels = nn.Sequential(nn.Conv2d(width, 16, 1), nn.PixelShuffle(4))

    def config(self) -> dict[str, Any]:
        """What is hidden, and how the error counts."""
        names = ("patch", "patch_ratio", "band_share", "band_center", "band_width", "spectrum_weight")
        return {name: getattr(self, name) for name in names} | {"width": self.decoder.channels}

    def forward(self, image: Tensor, encode: Encode) -> Tensor:
        """Scalar loss.

        Args:
            image: (B, 3, H, W) in [0, 1].
            encode: images -> maps and feature vector, of the encoder that learns.
        """
        shown, hidden, stopped = self.masked(image)
        told = self.reconstruct(shown, encode).float()
        truth = standardized(image.float().mean(1, keepdim=True))
        error = (told - truth).square()
        if not hidden.any() and not stopped.any():
            return error.mean()
        loss = error.new_zeros(())
        if hidden.any():
            loss = loss + (error * hidden).sum() / hidden.sum()
        if stopped.any() and self.spectrum_weight:
            loss = loss + self.spectrum_weight * spectral_error(told, truth, stopped)
        return loss

    def masked(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images with what is hidden: (B, 3, H, W), hidden pixels (B, 1, H, W), stopped bands (B, 1, H, W // 2 + 1)."""
        count, size, device = len(image), image.shape[2:], image.device
        of_bands = torch.rand(count, 1, 1, 1, device=device) < self.band_share
        hidden = patch_mask(count, size, patch=self.patch, ratio=self.patch_ratio, device=device) & ~of_bands
        stopped = band_mask(count, size, center=self.band_center, width=self.band_width, device=device) & of_bands
        shown = torch.where(of_bands, without_bands(image, stopped), with_noise(image, hidden))
        return shown, hidden, stopped

    def reconstruct(self, image: Tensor, encode: Encode) -> Tensor:
        """Gray images (B, 1, H, W) of mean 0 and deviation 1, of images (B, 3, H, W) in [0, 1]."""
        levels, _ = encode(image)
        told: Tensor = self.pixels(self.decoder(levels))
        return F.interpolate(told, image.shape[2:], mode="bilinear") if told.shape[2:] != image.shape[2:] else told


def standardized(image: Tensor) -> Tensor:
    """Images (B, 1, H, W) less their mean, over their standard deviation."""
    deviation = image.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
    unit: Tensor = (image - image.mean((1, 2, 3), keepdim=True)) / deviation
    return unit


def spectral_error(told: Tensor, truth: Tensor, stopped: Tensor) -> Tensor:
    """Mean squared error of the stopped frequencies (B, 1, H, W // 2 + 1), as a share of the truth's energy there."""
    one, other = (torch.fft.rfft2(image.float(), norm="ortho") for image in (told, truth))
    energy = (other.abs().square() * stopped).sum((1, 2, 3))
    error = ((one - other).abs().square() * stopped).sum((1, 2, 3))
    counted = energy > 1e-6
    mean: Tensor = (error[counted] / energy[counted]).mean() if counted.any() else error.sum() * 0
    return mean
