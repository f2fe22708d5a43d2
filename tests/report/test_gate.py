# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bundle.networks import build_uperconvnext
from bundle.networks.weights import read_checkpoint, save_checkpoint, tensors_sha256
from bundle.report.gate import curve, read_curves
from bundle.tables import csv_table, read_table
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


@pytest.mark.parametrize(
    ("remaining", "threshold"),
    [(0.0, 0.65), (0.49, 0.65), (0.5, 0.15), (1.0, 0.0)],  # of false alarms in 2 of 3 images without a gate
)
def test_the_lowest_threshold_with_few_enough_false_alarms(remaining: float, threshold: float) -> None:
    found = curve(CASES)
    assert found.thresholds[found.choose(0.04, remaining)] == pytest.approx(threshold)
    assert found.thresholds[found.choose(0.0, remaining)] == pytest.approx(min(threshold, 0.15))


@pytest.mark.parametrize("value", [-1.0, 5.0, float("nan")])
def test_shares_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"--tolerance must be in \[0, 1\], got"):
        curve(CASES).choose(value)
    with pytest.raises(ValueError, match=r"--remaining must be in \[0, 1\], got"):
        curve(CASES).choose(0.0, value)


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


@pytest.fixture
def weights(evaluation: Path) -> Path:
    """The evaluated checkpoint; summary.json of the evaluation says so."""
    torch.manual_seed(0)
    network = build_uperconvnext(
        encoder="test_convnext", decoder_channels=16, structures=["background", "lesion", "head"], label_sets={},
        positions=["breast", "indis"],
    )  # fmt: skip
    config = network.network_config()
    config |= {"heads": {**config["heads"], "presence": ["lesion", "head"]}, "gate": {"lesion": 0.2, "head": 0.3}}
    path = evaluation.parent / "model.pt"
    save_checkpoint(path, model=network.state_dict(), network_config=config)
    tell(evaluation, tensors_sha256=tensors_sha256(path))
    return path


def tell(evaluation: Path, **facts: Any) -> None:
    summary = {"split": "val", "gate": {}, "weights_sha256": "0", **facts}
    (evaluation / "summary.json").write_text(json.dumps(summary))


def test_command_writes_the_trade_off_and_the_thresholds(
    evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_checkpoint(weights)[0]
    weights.chmod(0o640)
    for _ in range(2):  # the second time, the file already tells a gate
        assert gate.main([str(evaluation), "--weights", str(weights), "--tolerance", "0.04"]) == 0
        assert "| lesion | 0.65 | 0.600 | 0.567 | 0.667 | 0.000 |" in capsys.readouterr().out
        state, config = read_checkpoint(weights)
        assert config["gate"] == {"head": 0.3, "lesion": 0.65}  # this evaluation tells nothing of the head
    assert weights.stat().st_mode & 0o777 == 0o640
    assert len((evaluation / "gate.csv").read_text().splitlines()) == 7
    assert (evaluation / "gate.png").stat().st_size > 5000
    assert all(torch.equal(value, state[name]) for name, value in before.items())
    arguments = ["--weights", str(weights), "--tolerance", "0.04", "--remaining", "1"]
    assert gate.main([str(evaluation), *arguments]) == 0
    assert read_checkpoint(weights)[1]["gate"] == {"head": 0.3}


def refused(evaluation: Path, weights: Path, message: str, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    """The command ends with a message, and nothing is written."""
    before = {path: path.read_bytes() for path in evaluation.parent.rglob("*") if path.is_file()}
    assert gate.main([str(evaluation), "--weights", str(weights), *more]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in evaluation.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"split": "test"}, "summary.json: the validation split (val) expected, got 'test'; evaluate with --split val"),
        ({"gate": {"lesion": 0.4}}, "an evaluation without a gate expected, got one with {'lesion': 0.4}"),
        ({"tensors_sha256": "other", "weights_sha256": "5f"}, "the evaluated weights expected (file with SHA-256 5f)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_evaluation_is_refused(
    evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str], facts: dict[str, Any], message: str
) -> None:
    tell(evaluation, **{"tensors_sha256": tensors_sha256(weights), **facts})
    refused(evaluation, weights, message, capsys)


def test_an_evaluation_that_does_not_say_its_gate_is_refused(
    evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation / "summary.json").write_text('{"split": "val"}')
    refused(evaluation, weights, "summary.json: split and gate of an evaluation expected, got KeyError('gate')", capsys)


def test_an_evaluation_of_one_kind_of_images_is_refused(
    evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = evaluation / "per_image.csv"
    table.write_text(table.read_text().replace("False", "True"))
    message = "a structure that some images show and others do not expected, got none of ['lesion', 'head']"
    refused(evaluation, weights, message, capsys)


def test_shares_are_looked_at_first(evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(evaluation, weights, "--tolerance must be in [0, 1], got -1.0", capsys, "--tolerance", "-1")
    refused(evaluation, weights, "--remaining must be in [0, 1], got 5.0", capsys, "--remaining", "5")


def test_weights_that_cannot_hold_the_gate_are_refused(
    evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(evaluation, weights.with_name("none.pt"), "weights must be a file", capsys)
    weights.chmod(0o444)
    refused(evaluation, weights, "model.pt: weights that can be written expected, got a read-only file", capsys)
    weights.chmod(0o644)
    state, config = read_checkpoint(weights)
    weights.unlink()
    del config["heads"]["presence"]
    save_checkpoint(weights, model=state, network_config=config)
    refused(evaluation, weights, "weights with the output 'presence' expected", capsys)


@pytest.mark.parametrize("value", ["15", "nan", "inf", "-0.1"])
def test_tables_with_other_than_probabilities_leave_the_weights_alone(
    evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    rows = read_table(evaluation / "per_image_presence.csv")
    (evaluation / "per_image_presence.csv").write_bytes(csv_table([{**rows[0], "probability": value}, *rows[1:]]))
    before = weights.read_bytes()
    refused(evaluation, weights, f"got probability {float(value)} and Dice", capsys)
    assert weights.read_bytes() == before


def test_a_gate_of_a_structure_that_the_weights_have_not_is_refused(
    evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("per_image.csv", "per_image_presence.csv"):
        text = (evaluation / name).read_text()
        (evaluation / name).write_text(text.replace("lesion", "$x"))
    refused(evaluation, weights, "expected, got ['$x'] in its tables; evaluate these weights", capsys)


def test_files_of_others_are_not_replaced(evaluation: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (evaluation / "gate.png").write_bytes(b"mine")
    refused(evaluation, weights, "gate.png: expected a free name", capsys)


def test_a_folder_without_tables_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main([str(tmp_path)]) == 2
    assert "summary.json: split and gate of an evaluation expected" in capsys.readouterr().err
    tell(tmp_path)
    assert gate.main([str(tmp_path)]) == 2
    assert "per_image_presence.csv of an evaluation expected" in capsys.readouterr().err
