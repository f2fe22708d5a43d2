# SPDX-License-Identifier: Apache-2.0
"""What masked pretraining hides of an image: patches, which become noise, and bands of spatial frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def patch_mask(batch: int, size: Sequence[int], *, patch: int, ratio: float, device: torch.device | str) -> Tensor:
    """Patches to hide, the same number in each image: (B, 1, H, W) bool.

    Args:
        batch: B.
        size: H and W, multiples of ``patch``.
        patch: side of a patch, in pixels.
        ratio: share of the patches, 0 to 1; rounded to whole patches.

    Raises:
        ValueError: when a side is no multiple of the patch.
    """
    rows, columns = size[0] // patch, size[1] // patch
    if rows * patch != size[0] or columns * patch != size[1]:
        raise ValueError(f"patch must divide the image's sides, got {patch} for {size[0]}x{size[1]}; choose another.")
    return hidden_patches(torch.rand(batch, rows, columns, device=device), patch=patch, ratio=ratio)


def hidden_patches(scores: Tensor, *, patch: int, ratio: float) -> Tensor:
    """The patches with the highest scores, the same number in each image: (B, 1, H, W) bool.

    Args:
        scores: (B, rows, columns).
        patch: side of a patch, in pixels.
        ratio: share of the patches, 0 to 1; rounded to whole patches.
    """
    batch, rows, columns = scores.shape
    rank = scores.flatten(1).argsort(1, descending=True).argsort(1)
    hidden = (rank < round(ratio * rows * columns)).view(batch, 1, rows, columns)
    return hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def radial_frequency(size: Sequence[int], *, device: torch.device | str) -> Tensor:
    """Radius of each frequency that ``torch.fft.rfft2`` gives, 1 at the Nyquist frequency: (H, W // 2 + 1)."""
    vertical = torch.fft.fftfreq(size[0], device=device)[:, None]
    horizontal = torch.fft.rfftfreq(size[1], device=device)[None]
    radius: Tensor = 2 * (vertical.square() + horizontal.square()).sqrt()
    return radius


def band_mask(
    batch: int, size: Sequence[int], *, center: Sequence[float], width: Sequence[float], device: torch.device | str
) -> Tensor:
    """A ring of frequencies to stop in each image: (B, 1, H, W // 2 + 1) bool; the mean is never stopped.

    Args:
        batch: B.
        size: H and W.
        center: range of the ring's radius; 1 is the Nyquist frequency.
        width: range of its width.

    Reference:
        Jiao et al. 2024, "USFM: a universal ultrasound foundation model", doi 10.1016/j.media.2024.103202, which hides
        bands of the Fourier spectrum beside patches of the image.
    """
    radius = radial_frequency(size, device=device)
    middle, half = (
        low + (high - low) * torch.rand(batch, 1, 1, 1, device=device)
        for low, high in (center, [value / 2 for value in width])
    )
    return ((radius - middle).abs() <= half) & (radius > 0)


def without_bands(image: Tensor, stopped: Tensor) -> Tensor:
    """Images (B, C, H, W) without the frequencies that are stopped (B, 1, H, W // 2 + 1)."""
    spectrum = torch.fft.rfft2(image.float()).masked_fill(stopped, 0)
    plain: Tensor = torch.fft.irfft2(spectrum, s=image.shape[-2:])
    return plain


def with_noise(image: Tensor, hidden: Tensor) -> Tensor:
    """Images (B, C, H, W) whose hidden pixels (B, 1, H, W) are noise of the mean and deviation of their image.

    The noise is the same in all channels.
    """
    mean = image.mean((1, 2, 3), keepdim=True)
    deviation = image.std((1, 2, 3), keepdim=True)
    noise = torch.randn(len(image), 1, *image.shape[2:], device=image.device) * deviation + mean
    return torch.where(hidden, noise.to(image.dtype), image)
