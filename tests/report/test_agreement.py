# SPDX-License-Identifier: Apache-2.0
"""Bias and limits of agreement of known errors, and the command that tells them."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.report.agreement import Pair, agreement, by_trimester, read_pairs, with_reference
from bundle.tables import csv_table, read_table
from scripts.agreement import main


def pairs(*errors: float, reference: float = 100.0) -> list[Pair]:
    return [Pair(f"{i}.png", f"p{i}", reference + error, reference) for i, error in enumerate(errors)]


def row(image: str, found: float | None, true: float | None, **more: Any) -> dict[str, Any]:
    lengths = {"circumference_mm": found, "true_circumference_mm": true}
    return (
        {"dataset": "HC", "group": image[:2], "image": image, "structure": "head", "protocol": "native"}
        | lengths
        | more
    )


ROWS = [
    row("a1.png", 101.0, 100.0),
    row("a2.png", 203.0, 200.0),
    row("b1.png", 296.0, 300.0),
    row("c1.png", None, 90.0),  # missed
    row("d1.png", 50.0, None),  # nothing to find
    row("a1.png", 9.0, 9.0, protocol="paper"),
    row("a1.png", 9.0, 9.0, structure="lesion"),
    row("e1.png", 80.0, 70.0, dataset="other"),
]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/per_image.csv").write_bytes(csv_table(ROWS))
    return tmp_path / "eval"


def reference(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "hc.csv").write_text("\n".join(["filename,hc", *lines]) + "\n")
    return tmp_path / "hc.csv"


def test_bias_and_limits_are_those_of_the_differences() -> None:
    found = agreement(pairs(1, 2, -3, 4), resamples=50, seed=0)
    assert (found["images"], found["patients"]) == (4, 4)
    assert found["mean_absolute_error"]["value"] == pytest.approx(2.5)
    assert found["bias"]["value"] == pytest.approx(1.0)
    spread = np.std([1, 2, -3, 4], ddof=1)  # 2.944
    assert found["standard_deviation"]["value"] == pytest.approx(spread)
    assert found["upper_limit"]["value"] == pytest.approx(1 + 1.96 * spread)
    assert found["lower_limit"]["value"] == pytest.approx(1 - 1.96 * spread)
    assert found["bias"]["low"] < 1 < found["bias"]["high"]


def test_images_of_one_patient_are_drawn_together() -> None:
    same = [Pair(f"{i}.png", "p", 101.0 + i, 100.0) for i in range(5)]
    assert agreement(same, resamples=50, seed=0)["bias"]["low"] is None  # one patient has no spread


def test_one_image_has_no_limits() -> None:
    found = agreement(pairs(2), resamples=50, seed=0)
    assert found["bias"]["value"] == 2
    assert found["upper_limit"]["value"] is None


def test_pairs_are_read_and_missed_structures_counted(evaluation: Path) -> None:
    found, missed, images = read_pairs(evaluation, structure="head", length="circumference", dataset="HC")
    assert images == ["a1.png", "a2.png", "b1.png", "c1.png", "d1.png"]
    assert [(p.image, p.group, p.measured, p.reference) for p in found] == [
        ("a1.png", "a1", 101.0, 100.0),
        ("a2.png", "a2", 203.0, 200.0),
        ("b1.png", "b1", 296.0, 300.0),
    ]
    assert missed == 1


def test_a_table_of_a_persons_figures_takes_the_place_of_the_masks(tmp_path: Path, evaluation: Path) -> None:
    found = read_pairs(evaluation, structure="head", length="circumference")
    table = reference(tmp_path, "a1.png,99.5", "b1.png,301", "z.png,1")
    told, notes = with_reference(found, table, column="hc")
    assert [(p.image, p.reference) for p in told] == [("a1.png", 99.5), ("b1.png", 301.0)]
    assert notes == [f"2 images are not in {table} and are left out"]


SITES = [row(f"{site}/p{n}.png", 100.0 + n, 99.0) for site in ("x/a", "x/b") for n in range(2)]


def test_figures_of_one_site_are_not_those_of_another(tmp_path: Path, evaluation: Path) -> None:
    (evaluation / "per_image.csv").write_bytes(csv_table([*SITES, row("x/c/q.png", 9.0, 8.0), row("q.png", 9.0, 8.0)]))
    found = read_pairs(evaluation, structure="head", length="circumference")
    table = reference(tmp_path, "a/p0.png,50", "x\\b\\p0.png,60", "p1.png,70", "q.png,7", "y/b/p1.png,80")
    told, notes = with_reference(found, table, column="hc")
    assert [(p.image, p.reference) for p in told] == [("x/a/p0.png", 50.0), ("x/b/p0.png", 60.0), ("q.png", 7.0)]
    assert [note.split("get")[0] for note in notes] == [
        f"1 rows of {table} must name one image each, got names that several have, and tell of none: p1.png; write"
        " paths as in per_image.csv",
        f"3 images are not in {table} and are left out",
    ]


def test_a_name_is_not_its_own_because_the_other_image_was_missed(tmp_path: Path, evaluation: Path) -> None:
    (evaluation / "per_image.csv").write_bytes(csv_table([row("a/p.png", None, 99.0), row("b/p.png", 100.0, 99.0)]))
    found = read_pairs(evaluation, structure="head", length="circumference")
    with pytest.raises(ValueError, match=r"got none of them; .* 1 rows of .* must name one image each.*: p.png"):
        with_reference(found, reference(tmp_path, "p.png,50"), column="hc")


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["a1.png,x"], "line 2: columns filename and hc with a number"),
        (["", "a1.png,-1"], "line 3: mm above 0"),
        (["a1.png,nan"], "line 2: mm above 0"),
        (["a1.png,1", "b1.png,2", "a1.png,3"], "line 4: one figure of a1.png"),
        (["a1.png,99,5"], "line 2: 2 cells expected"),
        (["other.png,1"], "file names of the evaluated images expected, .* got none of them"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, evaluation: Path, lines: list[str], match: str) -> None:
    found = read_pairs(evaluation, structure="head", length="circumference")
    with pytest.raises(ValueError, match=match):
        with_reference(found, reference(tmp_path, *lines), column="hc")


def test_trimesters_are_those_of_the_references_age() -> None:
    # Hadlock 1984: 60 mm is below 14 weeks, 175 mm is 20.0 weeks, 300 mm 33.3 weeks, 400 mm 49.8 weeks
    found = by_trimester([Pair("x", "x", 1.0, hc) for hc in (60.0, 175.0, 300.0, 400.0)])
    names = ["first trimester", "second trimester", "third trimester", "age outside the formula"]
    assert [pair.stratum for pair in found] == names


def test_the_command_writes_a_table_and_a_plot(
    tmp_path: Path, evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = reference(tmp_path, "a1.png,100", "a2.png,200")
    options = ["--structure", "head", "--length", "circumference", "--reference", str(table), "--column", "hc"]
    assert main([str(evaluation), *options, "--trimesters"]) == 0
    said = capsys.readouterr().out
    assert "| all | 2 | 2 | 2.00 (1.00 to 3.00) | 2.00 (1.00 to 3.00) |" in said
    assert "| second trimester | 2 | 2 |" in said  # 100 mm is 14.7 weeks, 200 mm 22.2 weeks
    assert "note: 2 images are not in" in said
    assert "missed: 1 images" in said
    rows = read_table(evaluation / "agreement_head_circumference.csv")
    assert [(one["image"], float(one["measured"])) for one in rows] == [("a1.png", 101.0), ("a2.png", 203.0)]
    with Image.open(io.BytesIO((evaluation / "agreement_head_circumference.png").read_bytes())) as plot:
        assert plot.size[0] > 500


def test_the_command_says_what_to_do(tmp_path: Path, evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--structure", "head"]) == 2
    assert "evaluate first" in capsys.readouterr().err
    assert main([str(evaluation), "--structure", "thyroid"]) == 2
    assert "per_image.csv: head, lesion to choose from, got --structure thyroid; correct" in capsys.readouterr().err
    assert main([str(evaluation), "--structure", "head", "--dataset", "Nope"]) == 2
    assert "per_image.csv: HC, other to choose from, got --dataset Nope; correct it." in capsys.readouterr().err
    assert main([str(evaluation), "--structure", "lesion", "--dataset", "other"]) == 2
    assert "head to choose from, got --structure lesion" in capsys.readouterr().err
    (evaluation / "per_image.csv").write_bytes(csv_table([row("a.png", None, None)]))
    assert main([str(evaluation), "--structure", "head", "--length", "circumference"]) == 2
    assert "images with a spacing that show 'head' expected, got none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(evaluation), "--structure", "head", "--column", "hc"])
    assert "--reference and --column go together" in capsys.readouterr().err


def test_a_plot_of_another_is_not_replaced(evaluation: Path) -> None:
    (evaluation / "agreement_head_circumference.png").write_bytes(b"mine")
    assert main([str(evaluation), "--structure", "head", "--length", "circumference"]) == 2
    assert (evaluation / "agreement_head_circumference.png").read_bytes() == b"mine"
    assert not (evaluation / "agreement_head_circumference.csv").exists()


def test_spread_is_not_negative() -> None:
    assert not math.isnan(agreement(pairs(1, 1, 1), resamples=10, seed=0)["standard_deviation"]["value"])
