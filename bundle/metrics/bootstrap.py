# SPDX-License-Identifier: Apache-2.0
"""95 % bootstrap intervals in which whole groups (patients, near-duplicates) are drawn, not images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Estimate(TypedDict):
    """A value and the ends of its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def group_weights(groups: Sequence[str], *, resamples: int, seed: int) -> Floats:
    """How often each image occurs in each resample, shape (resamples, images).

    As many groups as there are are drawn with replacement; an image's weight is the number of times that its group was
    drawn, so images of one patient come and go together.

    Args:
        groups: the group of each image.
        resamples: number of bootstrap resamples.
        seed: of the random draws; equal seeds give equal weights.

    Reference:
        Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (hierarchical data).
    """
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return draws[:, index.reshape(-1)].astype(np.float64)


def estimate(value: float, resampled: Floats, *, groups: Sequence[str]) -> Estimate:
    """The value with its percentile interval (2.5 % to 97.5 % of the resampled values).

    Resamples in which the value is not defined (NaN) are left out. The interval is None with a single group, which
    says nothing about the spread between groups.

    Args:
        value: the value over all images; NaN when it is not defined.
        resampled: the value in each resample, shape (resamples,).
        groups: the group of each image.
    """
    if not np.isfinite(value):
        return Estimate(value=None, low=None, high=None)
    defined = resampled[np.isfinite(resampled)]
    if len(set(groups)) < 2 or not len(defined):
        return Estimate(value=float(value), low=None, high=None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value=float(value), low=float(low), high=float(high))


def mean_estimate(values: Sequence[Any], groups: Sequence[str], *, resamples: int, seed: int) -> Estimate:
    """Mean over images with its bootstrap interval by group; all None without images.

    Args:
        values: one finite number or truth value per image.
        groups: the group of each image.
        resamples: number of bootstrap resamples.
        seed: of the random draws.
    """
    if not len(values):
        return Estimate(value=None, low=None, high=None)
    numbers = np.asarray(values, dtype=np.float64)
    weights = group_weights(groups, resamples=resamples, seed=seed)
    # Every resample holds at least one group, so the sum of weights is never zero.
    return estimate(float(numbers.mean()), weights @ numbers / weights.sum(axis=1), groups=groups)
