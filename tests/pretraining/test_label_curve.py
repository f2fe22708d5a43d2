# SPDX-License-Identifier: Apache-2.0
"""Shares of patients are nested and leave the other splits alone; cells are run once."""

import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bundle.pretraining.curve import Cell, only_sets, patients, subset
from bundle.tables import read_table
from tests.pretraining.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("label_curve")


@pytest.fixture
def manifest() -> dict[str, Any]:
    items = [
        {"image": f"{n}.png", "dataset": "d", "group": f"g{n // 2}", "class": "ab"[n // 2 % 2], "split": "train"}
        for n in range(200)
    ]
    items += [{"image": f"v{n}.png", "dataset": "d", "group": f"v{n}", "class": "a", "split": "val"} for n in range(5)]
    return {"datasets": {"d": {}, "e": {}}, "items": items}


def groups(part: dict[str, Any], split: str = "train") -> set[str]:
    return {item["group"] for item in part["items"] if item["split"] == split}


def test_shares_are_nested_and_hold_whole_patients_of_each_class(manifest: dict[str, Any]) -> None:
    parts = [subset(manifest, root=Path("/data"), percent=percent, seed=3) for percent in (1, 5, 20, 100)]
    assert [patients(part) for part in parts] == [2, 6, 20, 100]  # of 50 patients of each class, rounded up
    for smaller, larger in itertools.pairwise(parts):
        assert groups(smaller) < groups(larger)
    for part in parts:
        assert groups(part, "val") == groups(manifest, "val")
        assert {item["class"] for item in part["items"] if item["split"] == "train"} == {"a", "b"}
        assert all(sum(item["group"] == group for item in part["items"]) == 2 for group in groups(part))
    assert groups(subset(manifest, root=Path("/data"), percent=20, seed=4)) != groups(parts[2])


def test_other_sets_are_left_out_or_named(manifest: dict[str, Any]) -> None:
    assert list(only_sets(manifest, ["d"])["datasets"]) == ["d"]
    with pytest.raises(ValueError, match=r"data sets must be among \['d', 'e'\], got \['x'\]"):
        only_sets(manifest, ["x"])


def test_names_of_cells() -> None:
    assert Cell("distilled", 5.0, 1).name == "distilled_5_1"


@pytest.mark.slow
def test_cells_are_run_once_and_told_together(
    script: ModuleType, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset_dir", str(tiny_data), "--datasets", "Breast", "Limb", "--percents", "50", "100"]
    options += ["--epochs", "1", "--draws", "8", "--image_size", "64", "--output_dir", str(tmp_path / "curve")]
    small = ["--", "--encoder", "test_convnext", "--decoder_channels", "16", "--batch_size", "4", "--num_workers", "0"]
    assert script.main([*options, "--only", "_50_", *small]) == 0
    assert "noise_50_0: cell 1 of 2, 5 patients" in capsys.readouterr().out
    assert script.main([*options, *small]) == 0
    assert "noise_50_0" not in capsys.readouterr().out
    rows = read_table(tmp_path / "curve/curve.csv")
    assert {row["percent"] for row in rows} == {"50.0", "100.0"}
    assert {"Breast lesion, Dice", "Breast lesion, false alarms"} <= {row["score"] for row in rows}
    assert (tmp_path / "curve/curve.png").stat().st_size > 5000
    assert json.loads((tmp_path / "curve/noise_100_0/datalist.json").read_text())["items"]
    assert script.main([*options, "--epochs", "2", *small]) == 2
    assert "epochs: the cell has 1, got 2" in capsys.readouterr().err
    assert script.main([*options, "--split", "test", "--only", "_50_", *small]) == 0
    assert {row["split"] for row in read_table(tmp_path / "curve/curve.csv")} == {"test"}
    assert not (tmp_path / "curve/noise_50_0/training_2.log").exists()


def test_wrong_options_are_named(script: ModuleType, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--percents", "0"], "--percents must be above 0"),
        (["--starts", "distilled"], "--starts must be noise, NAME=FILE or NAME=ENCODER:FILE, got 'distilled'"),
        (["--starts", "distilled=none.pt"], "a file of weights expected, got none.pt, which is none"),
        (["--datasets", "X"], "correct --datasets"),
    ):
        assert script.main(["--dataset_dir", str(tiny_data), *options]) == 2
        assert message in capsys.readouterr().err
