# SPDX-License-Identifier: Apache-2.0
"""Masks hide the share that they say, and stop the frequencies that they say."""

import math

import pytest
import torch

from bundle.pretraining.masking import band_mask, patch_mask, radial_frequency, with_noise, without_bands


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.25, 3), (0.5, 6), (0.55, 7), (1.0, 12)])
def test_each_image_loses_the_same_number_of_whole_patches(ratio: float, count: int) -> None:
    mask = patch_mask(5, (48, 64), patch=16, ratio=ratio, device="cpu")
    assert mask.shape == (5, 1, 48, 64)
    patches = mask.unfold(2, 16, 16).unfold(3, 16, 16).flatten(4).float().mean(4)
    assert set(patches.unique().tolist()) <= {0.0, 1.0}
    assert patches.sum((1, 2, 3)).tolist() == [count] * 5


def test_images_lose_different_patches() -> None:
    torch.manual_seed(0)
    mask = patch_mask(2, (64, 64), patch=16, ratio=0.5, device="cpu")
    assert not torch.equal(mask[0], mask[1])


def test_a_patch_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="patch must divide the image's sides, got 24 for 64x64"):
        patch_mask(1, (64, 64), patch=24, ratio=0.5, device="cpu")


def test_radius_of_known_frequencies() -> None:
    radius = radial_frequency((8, 16), device="cpu")
    assert radius.shape == (8, 9)
    assert radius[0, 0] == 0
    assert radius[0, 8] == pytest.approx(1.0)  # Nyquist, horizontally
    assert radius[4, 0] == pytest.approx(1.0)  # and vertically
    assert radius[2, 4] == pytest.approx(math.hypot(0.5, 0.5))
    assert radius[6, 4] == radius[2, 4]  # negative frequencies


def test_a_stopped_band_takes_one_wave_and_leaves_another() -> None:
    """Waves of 4 and of 12 periods over 64 pixels have the radii 0.125 and 0.375."""
    x = torch.arange(64) * 2 * math.pi / 64
    low, high = (torch.sin(n * x).expand(1, 1, 64, 64) for n in (4, 12))
    stopped = band_mask(1, (64, 64), center=(0.375, 0.375), width=(0.1, 0.1), device="cpu")
    assert torch.allclose(without_bands(0.5 + low + high, stopped), 0.5 + low, atol=1e-4)
    stopped = band_mask(1, (64, 64), center=(0.125, 0.125), width=(0.1, 0.1), device="cpu")
    assert torch.allclose(without_bands(0.5 + low + high, stopped), 0.5 + high, atol=1e-4)


def test_the_mean_is_never_stopped() -> None:
    stopped = band_mask(3, (32, 32), center=(0.0, 0.0), width=(0.5, 0.5), device="cpu")
    assert not stopped[..., 0, 0].any()
    assert stopped.any()
    image = torch.rand(3, 1, 32, 32)
    assert torch.allclose(without_bands(image, stopped).mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-5)


def test_bands_lie_in_their_ranges() -> None:
    radius = radial_frequency((128, 128), device="cpu")
    for ring in band_mask(20, (128, 128), center=(0.3, 0.5), width=(0.1, 0.2), device="cpu"):
        hit = radius[ring[0]]
        assert 0.19 <= float(hit.min()) <= 0.5
        assert 0.3 <= float(hit.max()) <= 0.61
        assert 0.07 <= float(hit.max() - hit.min()) <= 0.2


def test_noise_stands_where_pixels_are_hidden() -> None:
    torch.manual_seed(0)
    image = (torch.rand(2, 1, 64, 64) * 0.2 + 0.4).expand(2, 3, 64, 64)
    hidden = patch_mask(2, (64, 64), patch=16, ratio=0.5, device="cpu")
    shown = with_noise(image, hidden)
    same = (shown == image).all(1, keepdim=True)
    assert torch.equal(same, ~hidden)
    assert torch.equal(shown[:, 0], shown[:, 2])
    noise = shown[hidden.expand_as(shown)]
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.std()) == pytest.approx(float(image.std()), rel=0.1)
