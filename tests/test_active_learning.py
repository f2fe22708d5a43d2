# SPDX-License-Identifier: Apache-2.0
"""The comparison of MONAI Label's score with Dice prints its table whatever the images give."""

import json
import shutil
from pathlib import Path

import pytest

from bundle.tables import read_table
from tests.pretraining.scripts import load_script


def test_a_set_of_one_image_and_one_that_cannot_be_read(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    items = json.loads((data / "datalist.json").read_text())["items"]
    lost, *_ = [data / item["image"] for item in items if (item["dataset"], item["split"]) == ("Breast", "test")]
    lost.write_bytes(lost.read_bytes()[:60])
    options = ["--dataset_dir", str(data), "--output", str(tmp_path / "rank.csv"), "--simulations", "2"]
    assert load_script("active_learning").main(options) == 1
    shown = capsys.readouterr()
    assert "\n| Limb | 1 | - | " in shown.out
    assert "\n| all | 3 | " in shown.out
    assert f"not scored: {lost}: " in shown.err
    assert len(read_table(tmp_path / "rank.csv")) == 3
