# SPDX-License-Identifier: Apache-2.0
import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from bundle.tables import csv_table
from scripts.compare_evaluations import compare, main, read_dice

COLUMNS = ["image", "dataset", "group", "structure", "protocol", "present", "dice"]


def evaluation(folder: Path, lesion: Sequence[float], head: Sequence[float]) -> Path:
    folder.mkdir()
    with (folder / "per_image.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for dataset, structure, values in (("BUSI", "lesion", lesion), ("HC", "head", head)):
            for number, dice in enumerate(values):
                image = f"{structure} {number}"
                table.writerow([image, dataset, image, structure, "native", True, dice])
                table.writerow([image, dataset, image, structure, "paper", True, 0.0])
        table.writerow(["empty", "BUSI", "empty", "lesion", "native", False, 0.0])
    return folder


def test_the_change_is_paired_and_the_mean_is_that_of_the_structures(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", [0.2, 0.4, 0.6], [0.5, 0.5])
    second = evaluation(tmp_path / "b", [0.3, 0.5, 0.7], [0.9, 0.9])
    lesion, head, mean = compare(read_dice(first), read_dice(second), resamples=200, seed=0)
    assert lesion[:2] == ("BUSI lesion", 3)
    assert lesion[2:4] == pytest.approx((0.4, 0.5))
    # each image gained 0.1: whichever are drawn, the change is that, however much the images differ
    assert [lesion[4][key] for key in ("value", "low", "high")] == pytest.approx([0.1, 0.1, 0.1])
    assert head[4]["value"] == pytest.approx(0.4)
    assert mean[2:4] == pytest.approx((0.45, 0.7))  # (.4 + .5) / 2, (.5 + .9) / 2
    assert [mean[4][key] for key in ("value", "low", "high")] == pytest.approx([0.25, 0.25, 0.25])


def test_the_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluation(tmp_path / "a", [0.2, 0.4], [0.5, 0.5])
    second = evaluation(tmp_path / "b", [0.1, 0.3], [0.5, 0.5])
    assert main([str(first), str(second)]) == 0
    assert "| BUSI lesion | 2 | 0.300 | 0.200 | -0.100 (-0.100 to -0.100) | -0.100 |" in capsys.readouterr().out


def test_several_pairs_are_averaged_image_by_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluation(tmp_path / "a", [0.2, 0.4], [0.5, 0.5])
    second = evaluation(tmp_path / "b", [0.3, 0.5], [0.5, 0.5])
    third = evaluation(tmp_path / "c", [0.4, 0.2], [0.5, 0.5])
    fourth = evaluation(tmp_path / "d", [0.3, 0.1], [0.9, 0.9])
    assert main([str(first), str(second), "--more", str(third), str(fourth)]) == 0
    table = capsys.readouterr().out
    # first, second: .3 and .3 over both pairs; each image gains .1 in one pair and loses .1 in the other
    assert "| BUSI lesion | 2 | 0.300 | 0.300 | +0.000 (+0.000 to +0.000) | +0.100, -0.100 |" in table.replace(
        "-0.000", "+0.000"
    )
    assert "| HC head | 2 | 0.500 | 0.700 | +0.200 (+0.200 to +0.200) | +0.000, +0.400 |" in table
    assert main([str(first), str(second), "--more", str(third), str(evaluation(tmp_path / "e", [0.1], [0.5]))]) == 2


def test_other_images_and_absent_tables_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluation(tmp_path / "a", [0.2, 0.4], [0.5])
    second = evaluation(tmp_path / "b", [0.1], [0.5])
    assert main([str(first), str(second)]) == 2
    assert "all evaluations must hold the same images, got 3 and 2" in capsys.readouterr().err
    assert main([str(first), str(tmp_path / "none")]) == 2
    assert "the per_image.csv of an evaluation expected" in capsys.readouterr().err
    for content in (b"\xff\xfe", (tmp_path / "a/per_image.csv").read_bytes().replace(b"0.2", b"x")):
        (tmp_path / "b/per_image.csv").write_bytes(content)
        assert main([str(first), str(second)]) == 2
        assert "b/per_image.csv: the per_image.csv of an evaluation expected" in capsys.readouterr().err


def test_names_that_a_table_protects_are_those_of_the_structures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"dataset": "=S", "structure": "-x", "image": "@a.png", "group": "g", "dice": 0.5}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        table = csv_table([{**row, "protocol": "native", "present": True}])
        (tmp_path / name / "per_image.csv").write_bytes(table)
    assert list(read_dice(tmp_path / "a")) == [("=S", "-x", "@a.png")]
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "| =S -x | 1 | 0.500 | 0.500 |" in capsys.readouterr().out
