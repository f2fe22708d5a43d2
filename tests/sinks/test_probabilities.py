# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bundle.sinks import PredictionWriter, Probabilities
from bundle.sinks.probabilities import round_maps
from tests.sinks.conftest import ORGANS, TASKS

Writer = Callable[..., PredictionWriter]
Item = Callable[..., dict[str, Any]]
Run = Callable[..., None]


def maps(*pixels: tuple[float, float, float]) -> np.ndarray:
    """Probabilities (3, 1, N)."""
    return np.array(pixels, np.float32).T[:, None]


def test_probabilities_are_rounded_so_that_the_mask_stays_the_most_probable() -> None:
    exact = maps((0.5, 0.25, 0.25), (0.49990, 0.5001, 0), (0.50001, 0.5000, 0), (0.2, 0.39998, 0.4), (0.1, 0.2, 0.7))
    mask = exact.argmax(0).astype(np.uint8)
    assert mask.tolist() == [[0, 1, 0, 2, 2]]
    plain = exact.astype(np.float16)
    assert plain.argmax(0).tolist() == [[0, 0, 0, 1, 2]]  # two pixels would be other structures
    rounded = round_maps(exact, mask)
    assert rounded.dtype == np.float16
    assert rounded.argmax(0).tolist() == mask.tolist()
    assert np.abs(rounded.astype(np.float32) - exact).max() < 0.0008
    assert np.count_nonzero(rounded != plain) == 2


def test_probabilities_that_differ_in_the_fifth_digit_agree_with_the_mask() -> None:
    """The mask's way back and the maps' compute places apart."""
    exact = maps((0.50001, 0.49999, 0.0), (0.50003, 0.49997, 0.0))
    assert round_maps(exact, np.array([[1, 1]], np.uint8)).argmax(0).tolist() == [[1, 1]]


def test_a_mask_that_says_otherwise_does_not_change_the_probabilities() -> None:
    exact = maps((0.1, 0.2, 0.7), (0.3, 0.3, 0.4))
    assert np.array_equal(round_maps(exact, np.zeros((1, 2), np.uint8)), exact.astype(np.float16))


def test_probabilities_are_a_file_that_numpy_reads(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    exact = np.random.default_rng(0).dirichlet([1, 1, 1], (6, 9)).transpose(2, 0, 1).astype(np.float32)
    one = item("sub/a.png", probability_maps=torch.from_numpy(exact))
    handler = writer(probabilities=Probabilities(TASKS))
    run(handler, one, item("b.png", place=1, error="b.png: cannot be decoded"), fails=True)
    with np.load(tmp_path / "out/sub/a_probabilities.npz") as found:
        assert found["structures"].tolist() == ORGANS.structures
        assert found["spacing_mm"].tolist() == [0.5, 0.2]
        assert found["probabilities"].shape == (3, 6, 9)
        assert found["probabilities"].dtype == np.float16
        np.testing.assert_allclose(found["probabilities"], exact, atol=2.5e-4)
    good, bad = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert (good["probabilities"], bad["probabilities"]) == ("sub/a_probabilities.npz", None)
    before = (tmp_path / "out/sub/a_probabilities.npz").read_bytes()
    run(writer(probabilities=Probabilities(TASKS)), one)
    assert (tmp_path / "out/sub/a_probabilities.npz").read_bytes() == before
