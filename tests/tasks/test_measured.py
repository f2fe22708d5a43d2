# SPDX-License-Identifier: Apache-2.0
"""Records of known ellipses."""

import numpy as np
import pytest

from bundle.geometry import Geometry
from bundle.tasks.measured import Measures
from tests.test_measures import ellipse

STRUCTURES = ["background", "lesion", "head"]


def test_a_head_gets_its_biometry() -> None:
    label_map = ellipse().astype(np.uint8) * 2
    record = Measures("head").record(label_map, STRUCTURES, Geometry((400, 500), 224, (0.3, 0.3), "PixelSpacing"))
    assert record["areas"]["head"] == {"pixels": int(ellipse().sum()), "mm2": round(int(ellipse().sum()) * 0.09, 4)}
    assert record["measures"]["head"]["cut"] is False
    assert record["fetal_head"]["ofd_mm"] == pytest.approx(90, abs=0.1)
    assert record["fetal_head"]["bpd_mm"] == pytest.approx(54, abs=0.1)
    assert record["fetal_head"]["hc_mm"] == record["measures"]["head"]["circumference_mm"]
    weeks = 8.96 + 0.054 * record["fetal_head"]["hc_mm"] + 0.0003 * (record["fetal_head"]["hc_mm"] / 10) ** 3
    assert record["fetal_head"]["gestational_age_weeks"] == pytest.approx(weeks, abs=0.01)
    assert record["measures"]["lesion"]["long_axis_mm"] is None


def test_a_head_that_is_cut_has_no_age() -> None:
    label_map = ellipse(center=(60, 250)).astype(np.uint8) * 2
    record = Measures("head").record(label_map, STRUCTURES, Geometry((400, 500), 224, (0.3, 0.3)))
    assert record["measures"]["head"]["cut"] is True
    assert record["fetal_head"]["hc_mm"] is not None
    assert record["fetal_head"]["gestational_age_weeks"] is None


def test_no_millimeters_without_a_spacing() -> None:
    record = Measures("head").record(ellipse().astype(np.uint8) * 2, STRUCTURES, Geometry((400, 500), 224))
    assert record["areas"]["head"] == {"pixels": int(ellipse().sum()), "mm2": None}
    assert {v for key, v in record["measures"]["head"].items() if key != "cut"} == {None}
    assert set(record["fetal_head"].values()) == {None}


def test_only_a_fetal_head_has_biometry() -> None:
    label_map = ellipse().astype(np.uint8)
    place = Geometry((400, 500), 224, (0.3, 0.3))
    assert "fetal_head" not in Measures().record(label_map, STRUCTURES, place)
    assert "fetal_head" not in Measures("skull").record(label_map, STRUCTURES, place)


def test_the_legend_explains_every_figure() -> None:
    measures = Measures("head")
    record, legend = measures.blank(STRUCTURES), measures.legend(STRUCTURES)
    assert set(record["measures"]["lesion"]) <= set(legend["measures"])
    assert set(record["fetal_head"]) == set(legend["fetal_head"])
