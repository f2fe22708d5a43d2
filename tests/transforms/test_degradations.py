# SPDX-License-Identifier: Apache-2.0
"""Each effect of ultrasound does to an image what it says."""

import pytest
import torch
from torch import Tensor

from bundle.transforms import RandDegradeUltrasoundd


def degraded(image: Tensor, seed: int = 0, **effects: float) -> Tensor:
    transform = RandDegradeUltrasoundd("image", **effects)
    transform.set_random_state(seed=seed)
    found: Tensor = transform({"image": image})["image"]
    return found


FLAT = torch.full((1, 60, 40), 0.4)


def test_without_effects_nothing_changes() -> None:
    image = torch.rand(1, 30, 20)
    assert torch.equal(degraded(image), image)


def test_gain_follows_depth_alone() -> None:
    gain = degraded(FLAT, gain_prob=1.0, gain_range=1.0)[0] / 0.4
    assert torch.allclose(gain, gain[:, :1].expand_as(gain))
    assert torch.allclose(gain[0], torch.ones(40))
    factors = gain[1:, 0] / gain[:-1, 0]
    assert torch.allclose(factors, factors[:1].expand_as(factors), atol=1e-4)  # exponential
    assert 0.5 <= float(gain[-1, 0]) <= 2
    assert float(gain[-1, 0]) != 1


@pytest.mark.parametrize("seed", range(5))
def test_a_shadow_darkens_a_wedge_and_nothing_else(seed: int) -> None:
    shadow = degraded(FLAT, seed, shadow_prob=1.0)[0] / 0.4
    assert float(shadow.max()) == pytest.approx(1.0, abs=0.02)
    assert 0.03 <= float(shadow[-1].min()) <= 0.52  # 50 to 95 % is lost
    dark = shadow < 0.9
    assert dark[-1].sum() > 0
    assert 0 < dark.float().mean() < 0.7
    assert not dark[0].all()


def test_haze_lifts_the_near_field_most() -> None:
    hazed = degraded(torch.zeros(1, 60, 40), haze_prob=1.0)[0]
    assert torch.allclose(hazed, hazed[:, :1].expand_as(hazed))
    assert (hazed[1:, 0] < hazed[:-1, 0]).all()
    assert 0.04 < float(hazed[0, 0]) <= 0.36


def test_speckle_keeps_the_mean_and_adds_grain() -> None:
    flat = torch.full((1, 256, 256), 0.25)
    speckled = degraded(flat, 3, speckle_prob=1.0, speckle_strength=0.5)
    assert float(speckled.mean()) == pytest.approx(0.25, rel=0.02)
    assert 0.005 < float(speckled.std()) < 0.25 * 0.53  # of a Rayleigh distribution: 0.52 of its mean


def test_inversion_turns_white_to_black() -> None:
    image = torch.rand(3, 8, 8)
    assert torch.allclose(degraded(image, invert_prob=1.0), 1 - image)


def test_values_stay_in_range_and_a_seed_repeats() -> None:
    effects = dict.fromkeys(("gain_prob", "shadow_prob", "haze_prob", "speckle_prob", "invert_prob"), 0.7)
    image = torch.rand(3, 33, 47)
    for seed in range(20):
        found = degraded(image, seed, **effects)
        assert found.shape == image.shape
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert torch.equal(found, degraded(image, seed, **effects))
