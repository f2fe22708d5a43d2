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
        "b,cystic,,,,,30",
        "c,solid,purple,wider than tall,smooth,none,9",
    )
    assert main([str(table), "--output", str(tmp_path / "out.csv")]) == 1
    assert "line 4: echogenicity must be one of" in capsys.readouterr().err
    with open(tmp_path / "out.csv", newline="") as file:
        a, b, c = csv.DictReader(file)
    assert (a["points"], a["level"], a["advice"]) == ("13", "TR5", "fine-needle aspiration")
    assert (b["points"], b["level"], b["advice"]) == ("0", "TR1", "no fine-needle aspiration")
    assert (c["points"], c["nodule"], c["diameter_mm"]) == ("", "c", "9")
    assert "echogenicity must be one of" in c["error"]
    assert main([str(table), "--output", str(table)]) == 2
