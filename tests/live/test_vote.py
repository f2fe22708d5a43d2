# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor

from bundle.live import TemporalVote
from bundle.live.vote import Mean

SIZE = (10, 20)


def one(lesion: float, malignant: float) -> dict[str, Tensor]:
    seg = torch.tensor([1 - lesion, lesion]).reshape(2, 1, 1)
    return {"seg": seg, "cls_breast": torch.tensor([1 - malignant, malignant])}


def test_means_of_a_window_of_three() -> None:
    vote = TemporalVote(3)
    found = [
        vote.add(one(lesion, malignant), SIZE) for lesion, malignant in ((0.9, 0.0), (0.3, 0.6), (0.6, 0.9), (0.0, 0.3))
    ]
    # 0.9; (0.9 + 0.3) / 2; (0.9 + 0.3 + 0.6) / 3; (0.3 + 0.6 + 0.0) / 3
    np.testing.assert_allclose([values["seg"][1, 0, 0] for values in found], [0.9, 0.6, 0.6, 0.3], atol=1e-6)
    np.testing.assert_allclose([values["cls_breast"][1] for values in found], [0.0, 0.3, 0.5, 0.6], atol=1e-6)


def test_one_outlier_among_three_is_outvoted() -> None:
    vote = TemporalVote(3)
    assert [bool(vote.add(one(p, 0), SIZE)["seg"][1, 0, 0] > 0.5) for p in (0.8, 0.8, 0.1, 0.8)] == [True] * 4


def test_window_of_one_is_no_vote() -> None:
    vote = TemporalVote(1)
    vote.add(one(0.9, 0), SIZE)
    assert vote.add(one(0.2, 0), SIZE)["seg"][1, 0, 0] == np.float32(0.2)


def test_a_frame_of_another_size_starts_anew() -> None:
    vote = TemporalVote(5)
    vote.add(one(0.9, 0), SIZE)
    assert vote.add(one(0.2, 0), (20, 10))["seg"][1, 0, 0] == np.float32(0.2)


def test_rounding_errors_do_not_gather() -> None:
    mean, random = Mean(4, (1,)), np.random.default_rng(0)
    values = (random.random(4001) * 1000).astype(np.float32)
    for value in values:
        last = mean.add(np.array([value]))
    assert last[0] == pytest.approx(values[-4:].mean(), rel=1e-6)


def test_window_must_be_positive() -> None:
    with pytest.raises(ValueError, match="window must be 1 frame or more, got 0"):
        TemporalVote(0)
