# SPDX-License-Identifier: Apache-2.0
"""What scanners and tissue do to an ultrasound image: gain over depth, shadow, haze, speckle, lost lines."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor


class RandDegradeUltrasoundd(RandomizableTransform, MapTransform):
    """Degrades images (C, H, W) in [0, 1] whose rows are depths, each effect with a probability of its own.

    In this order: gain that changes with depth, a shadow (a wedge from a depth on), haze (an offset that fades with
    depth), multiplicative speckle of a grain of some pixels, lines that are lost, inversion. MONAI has bias fields and
    Rician noise, none of which follows the depth. All values stay in [0, 1].

    Args:
        keys: of the images.
        gain_prob, shadow_prob, haze_prob, speckle_prob, lines_prob, invert_prob: probabilities.
        gain_range: largest gain or loss at the far end, as a power of two.
        speckle_strength: largest weight of the speckle, 0 to 1: 1 is the Rayleigh distribution of developed speckle.
        by_image: the same image is degraded in the same way always, whatever the seed: for scores.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        gain_prob: float = 0.0,
        shadow_prob: float = 0.0,
        haze_prob: float = 0.0,
        speckle_prob: float = 0.0,
        lines_prob: float = 0.0,
        invert_prob: float = 0.0,
        gain_range: float = 1.0,
        speckle_strength: float = 0.5,
        by_image: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.effects = (
            (gain_prob, self._gain),
            (shadow_prob, self._shadow),
            (haze_prob, self._haze),
            (speckle_prob, self._speckle),
            (lines_prob, self._lines),
            (invert_prob, self._invert),
        )
        self.gain_range, self.speckle_strength, self.by_image = gain_range, speckle_strength, by_image

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with degraded images."""
        item = dict(data)
        if self.by_image:
            first = np.ascontiguousarray(torch.as_tensor(item[self.keys[0]]).as_subclass(torch.Tensor).numpy())
            self.set_random_state(seed=zlib.crc32(first.tobytes()))
        chosen = [effect for prob, effect in self.effects if self.R.uniform() < prob]
        for key in self.key_iterator(item):
            image = item[key]
            for effect in chosen:
                image = effect(image).clamp(0, 1)
            item[key] = image
        return item

    def _gain(self, image: Tensor) -> Tensor:
        """Gain 2 ** (g t) at depth t in [0, 1]."""
        depth = torch.linspace(0, 1, image.shape[-2])[:, None]
        return image * torch.exp2(float(self.R.uniform(-self.gain_range, self.gain_range)) * depth)

    def _shadow(self, image: Tensor) -> Tensor:
        """A wedge behind a reflector loses 50 to 95 % of its intensity, with soft edges."""
        height, width = image.shape[-2:]
        x, y = (torch.linspace(-1, 1, n) for n in (width, height))
        top, middle, slope = self.R.uniform(-0.8, 0.5), self.R.uniform(-0.8, 0.8), self.R.uniform(-0.3, 0.3)
        half = self.R.uniform(0.05, 0.3) * (1 + 0.3 * (y - top))
        aside = (x[None, :] - middle - slope * (y - top)[:, None]).abs()
        inside = torch.sigmoid((half[:, None] - aside) / 0.03) * torch.sigmoid((y - top) / 0.03)[:, None]
        return image * (1 - float(self.R.uniform(0.5, 0.95)) * inside)

    def _haze(self, image: Tensor) -> Tensor:
        """Reverberation near the probe: contrast is lost to an offset that fades with depth."""
        depth = torch.linspace(0, 1, image.shape[-2])[:, None]
        haze = float(self.R.uniform(0.1, 0.4)) * torch.exp(-depth * float(self.R.uniform(0.5, 4)))
        return image * (1 - haze) + haze * float(self.R.uniform(0.4, 0.9))

    def _speckle(self, image: Tensor) -> Tensor:
        """Multiplication by 1 + s (r - 1), r of a Rayleigh distribution of mean 1."""
        grain = int(self.R.randint(1, 5))
        height, width = (max(1, n // grain) for n in image.shape[-2:])
        rayleigh = self.R.rayleigh(np.sqrt(2 / np.pi), (height, width)).astype(np.float32)
        fine = F.interpolate(torch.from_numpy(rayleigh)[None, None], image.shape[-2:], mode="bilinear")[0]
        return image * (1 + float(self.R.uniform(0.1, 1)) * self.speckle_strength * (fine - 1))

    def _lines(self, image: Tensor) -> Tensor:
        """Runs of one to four scan lines, 2 to 10 % of the width together, keep at most a fifth of their intensity.

        So dead elements and lost packets look where lines are columns, as of a linear probe.
        """
        width = image.shape[-1]
        kept = torch.ones(width)
        for _ in range(max(1, round(width * float(self.R.uniform(0.02, 0.1)) / 2.5))):
            start = int(self.R.randint(width))
            kept[start : start + int(self.R.randint(1, 5))] = float(self.R.uniform(0, 0.2))
        return image * kept

    def _invert(self, image: Tensor) -> Tensor:
        return 1 - image
