# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.networks import build_uperconvnext
from bundle.networks.weights import read_checkpoint, save_checkpoint
from bundle.report.gate import curve, read_curves
from bundle.tables import csv_table
from scripts import gate

CASES = [
    (True, 0.9, True, 0.9),
    (True, 0.8, True, 0.7),
    (True, 0.1, True, 0.2),
    (False, 0.0, True, 0.6),
    (False, 0.0, True, 0.1),
    (False, 0.0, False, 0.3),
]
"""Is there, Dice, is shown, probability of its presence."""


def test_curve_by_hand() -> None:
    found = curve(CASES)
    np.testing.assert_allclose(found.thresholds, [0, 0.15, 0.25, 0.45, 0.65, 0.8])
    np.testing.assert_allclose(found.dice, np.array([1.8, 1.8, 1.7, 1.7, 1.7, 0.9]) / 3)
    np.testing.assert_allclose(found.false_alarms, np.array([2, 1, 1, 1, 0, 0]) / 3)
    assert (found.present, found.absent) == (3, 3)


@pytest.mark.parametrize(("tolerance", "threshold"), [(0.0, 0.15), (0.02, 0.15), (0.034, 0.65), (1.0, 0.65)])
def test_the_fewest_false_alarms_within_the_tolerance(tolerance: float, threshold: float) -> None:
    found = curve(CASES)
    assert found.thresholds[found.choose(tolerance)] == pytest.approx(threshold)


def test_both_kinds_of_images_are_needed() -> None:
    with pytest.raises(ValueError, match="images with and without the structure expected, got 3 of 3"):
        curve(CASES[:3])


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    rows, presence = [], []
    for number, (there, dice, shown, probability) in enumerate(CASES):
        image = {"image": f"{number}.png", "structure": "lesion"}
        rows.append({**image, "protocol": "native", "present": there, "dice": dice, "pred_pixels": 5 * shown})
        presence.append({**image, "probability": probability})
    rows.append({**rows[0], "protocol": "paper"})
    rows.append({**rows[0], "image": "9.png", "structure": "head"})  # all images show it
    presence.append({"image": "9.png", "structure": "head", "probability": 0.9})
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / "per_image.csv").write_bytes(csv_table(rows))
    (folder / "per_image_presence.csv").write_bytes(csv_table(presence))
    return folder


def test_tables_of_an_evaluation(evaluation: Path) -> None:
    curves = read_curves(evaluation)
    assert list(curves) == ["lesion"]
    np.testing.assert_array_equal(curves["lesion"].dice, curve(CASES).dice)


def test_command_writes_the_trade_off_and_the_thresholds(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = build_uperconvnext(
        encoder="test_convnext", decoder_channels=16, structures=["background", "lesion"], label_sets={},
        positions=["breast", "indis"],
    )  # fmt: skip
    weights = evaluation.parent / "model.pt"
    save_checkpoint(weights, model=network.state_dict(), network_config=network.network_config())
    assert gate.main([str(evaluation), "--weights", str(weights), "--tolerance", "0.04"]) == 0
    assert "| lesion | 0.65 | 0.600 | 0.567 | 0.667 | 0.000 |" in capsys.readouterr().out
    assert len((evaluation / "gate.csv").read_text().splitlines()) == 7
    assert (evaluation / "gate.png").stat().st_size > 5000
    state, config = read_checkpoint(weights)
    assert config["gate"] == {"lesion": 0.65}
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_folder_without_tables_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main([str(tmp_path)]) == 2
    assert "per_image_presence.csv of an evaluation expected" in capsys.readouterr().err
