# SPDX-License-Identifier: Apache-2.0
"""The points of the published chart, and the levels and advice that they make."""

import csv
from pathlib import Path
from typing import Any

import pytest

from bundle.tirads import POINTS, tirads
from scripts.tirads import main

PLAIN = {"composition": "solid", "echogenicity": "isoechoic", "shape": "wider than tall", "margin": "smooth",
         "foci": "none"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "points", "level"),
    [
        ({"composition": "cystic"}, 0, 1),
        ({"composition": "spongiform", "foci": "punctate", "margin": "irregular"}, 0, 1),
        ({"composition": "mixed"}, 2, 2),
        ({}, 3, 3),
        ({"echogenicity": "hypoechoic"}, 4, 4),
        ({"echogenicity": "very hypoechoic", "foci": "macrocalcifications"}, 6, 4),
        ({"shape": "taller than wide", "foci": "macrocalcifications"}, 7, 5),
        ({"margin": "extrathyroidal extension"}, 6, 4),
        ({"margin": "lobulated", "foci": ["punctate", "peripheral calcifications"]}, 10, 5),
        ({"foci": ["comet-tail", "macrocalcifications"]}, 4, 4),
        ({"composition": "undetermined", "echogenicity": "undetermined", "margin": "undetermined"}, 3, 3),
    ],
)
def test_points_and_levels_are_those_of_the_chart(changes: dict[str, Any], points: int, level: int) -> None:
    found = tirads({**PLAIN, **changes})
    assert (found.points, found.level) == (points, level)


@pytest.mark.parametrize(
    ("changes", "diameter", "advice"),
    [
        ({"composition": "mixed"}, 60.0, "no fine-needle aspiration"),
        ({}, 14.9, "neither aspiration nor follow-up"),
        ({}, 15.0, "follow-up"),
        ({}, 25.0, "fine-needle aspiration"),
        ({"echogenicity": "hypoechoic"}, 9.9, "neither aspiration nor follow-up"),
        ({"echogenicity": "hypoechoic"}, 10.0, "follow-up"),
        ({"echogenicity": "hypoechoic"}, 15.0, "fine-needle aspiration"),
        ({"foci": "punctate", "margin": "irregular"}, 4.9, "neither aspiration nor follow-up"),
        ({"foci": "punctate", "margin": "irregular"}, 5.0, "follow-up"),
        ({"foci": "punctate", "margin": "irregular"}, 10.0, "fine-needle aspiration"),
        ({"foci": "punctate", "margin": "irregular"}, None, ""),
    ],
)
def test_advice_follows_level_and_diameter(changes: dict[str, Any], diameter: float | None, advice: str) -> None:
    assert tirads({**PLAIN, **changes}, diameter).advice == advice


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({**PLAIN, "shape": "round"}, "shape must be one of wider than tall, taller than wide, got 'round'"),
        ({name: seen for name, seen in PLAIN.items() if name != "margin"}, "margin must be one of"),
        ({**PLAIN, "composition": "mixed", "echogenicity": "anechoic"}, "must be that of its solid part"),
        ({**PLAIN, "foci": ["none", "punctate"]}, "foci must be none, or some of the others"),
        ({**PLAIN, "halo": "thin"}, "features must be some of composition"),
    ],
)
def test_features_that_cannot_be_are_refused(features: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tirads(features)
    with pytest.raises(ValueError, match="diameter must be above 0 and below 200 mm, got 0"):
        tirads(PLAIN, 0.0)


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([",".join(["nodule", *POINTS, "diameter_mm"]), *rows]) + "\n")
    return path


def test_a_table_gets_its_columns_and_a_bad_row_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(
        tmp_path / "nodules.csv",
        "a,solid,hypoechoic,Taller than wide,irregular,punctate; macrocalcifications,12",
        "",
        "b,cystic,,,,,30",
        "c,solid,purple,wider than tall,smooth,none,9",
    )
    assert main([str(table), "--output", str(tmp_path / "out.csv")]) == 1
    assert "line 5: echogenicity must be one of" in capsys.readouterr().err
    with open(tmp_path / "out.csv", newline="") as file:
        a, b, c = csv.DictReader(file)
    assert (a["points"], a["level"], a["advice"]) == ("13", "TR5", "fine-needle aspiration")
    assert (b["points"], b["level"], b["advice"]) == ("0", "TR1", "no fine-needle aspiration")
    assert (c["points"], c["nodule"], c["diameter_mm"]) == ("", "c", "9")
    assert "echogenicity must be one of" in c["error"]
    assert main([str(table), "--output", str(table)]) == 2


def head(**changes: str) -> str:
    return ",".join(changes.get(name, name) for name in ["nodule", *POINTS, "diameter_mm"])


SOLID = "a,solid,hypoechoic,wider than tall,smooth,none,12"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([head(nodule="points"), SOLID], "no column points expected, since it is added, got 'points'; rename"),
        ([head(nodule=" Level"), SOLID], "no column level expected, since it is added, got ' Level'; rename"),
        ([head(nodule="Foci"), SOLID], "one column foci expected, got 'Foci' and 'foci'"),
        ([head(nodule="foci"), SOLID], "each column once expected, got 'foci' twice"),
        ([head(diameter_mm="diameter"), SOLID], "a column diameter_mm with the largest diameter expected, got 'diamet"),
        ([head(composition="kind"), SOLID], "column composition expected, got nodule, kind"),
        ([head(), SOLID.replace("none", "comet-tail,punctate")], "line 2: 7 cells expected"),
    ],
)
def test_columns_that_would_be_lost_or_mistaken_are_refused(
    tmp_path: Path, lines: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nodules.csv").write_text("\n".join(lines) + "\n")
    assert main([str(tmp_path / "nodules.csv"), "--output", str(tmp_path / "out.csv")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_columns_are_known_in_any_case_and_diameters_by_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "nodules.csv"
    rows = [SOLID, SOLID.replace("12", " "), SOLID.replace("12", '"12,5"'), SOLID.replace("12", "nan")]
    table.write_text("\n".join([head(diameter_mm="Diameter_mm ", foci="Foci"), *rows]) + "\n")
    assert main([str(table), "--output", str(tmp_path / "out.csv")]) == 1
    said = capsys.readouterr().err
    assert "line 4: diameter_mm must be a number with a decimal point, or empty, got '12,5'; correct it." in said
    assert "line 5: diameter must be above 0 and below 200 mm, got nan" in said
    with open(tmp_path / "out.csv", newline="") as file:
        assert [row["advice"] for row in csv.DictReader(file)] == ["follow-up", "", "", ""]
