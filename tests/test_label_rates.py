# SPDX-License-Identifier: Apache-2.0
"""The measurement of trainings on saved labels trains as the server does and scores on other patients."""

import json
from pathlib import Path

import pytest
import torch

from bundle.networks.weights import read_file
from scripts.label_rates import main

ROOT = Path(__file__).resolve().parents[1]


def test_a_rate_is_measured_on_patients_without_a_label(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset_dir", str(tiny_data), "--dataset", "Breast", "--output", str(tmp_path / "out")]
    few = ["--labels", "2", "--rates", "0.0", "0.01", "--epochs", "1", "--image_size", "64"]
    assert main([*options, *few, "--threads", str(torch.get_num_threads())]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "out/rates.json").read_text())
    assert [(row["labels"], row["rate"], row["others"]) for row in rows] == [(2, 0.0, 1), (2, 0.01, 1)]
    assert all(0 <= row["before"] <= 1 and 0 <= row["after"] <= 1 for row in rows)
    served = read_file(ROOT / "models/model.pt")["model"]["decoder.refine.bias"]
    trained = [read_file(tmp_path / f"out/labels2_rate{rate}/best.pt")["model"] for rate in ("0", "0.01")]
    assert [torch.equal(state["decoder.refine.bias"], served) for state in trained] == [True, False]
    assert "2 labels, rate 0: " in printed
    assert "mean Dice on the labels kept aside (1): former weights " in printed
    too_many = [*options, "--labels", "3"]
    assert main(too_many) == 1
    assert "error: --dataset must have more patients with masks than --labels" in capsys.readouterr().err
