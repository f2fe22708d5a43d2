# SPDX-License-Identifier: Apache-2.0
"""Records of known ellipses."""

import numpy as np
import pytest

from bundle.data.phantom.frames import make_screen
from bundle.geometry import Geometry, Zone
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


@pytest.mark.parametrize("kind", ["linear", "convex", "phased", "panels", "cropped"])
def test_depth_counts_from_where_the_sector_begins(kind: str) -> None:
    for seed in range(2):
        screen = make_screen(kind, np.random.default_rng([seed, 3]))
        sector = screen.sectors[-1]
        columns = np.flatnonzero(sector.any(0))
        column = int(np.quantile(columns, 0.6))
        top = int(sector[:, column].argmax())
        label_map = np.zeros(sector.shape, np.uint8)
        label_map[top + 60 : top + 90, column : column + 1] = 1
        place = Geometry((sector.shape[0], sector.shape[1]), 224, (0.2, 0.3), "user", picture=screen.pixels)
        found = Measures().record(label_map, STRUCTURES, place)["measures"]["lesion"]["depth_mm"]
        assert found == pytest.approx(60 * 0.2, abs=2.0), seed  # the point of a phased fan is 10 pixels off at most


def test_no_depth_without_a_sector_or_a_picture() -> None:
    label_map = ellipse().astype(np.uint8)
    for picture in (None, np.zeros((400, 500), np.uint8)):
        place = Geometry((400, 500), 224, (0.3, 0.3), picture=picture)
        found = Measures().record(label_map, STRUCTURES, place)["measures"]["lesion"]
        assert found["depth_mm"] is None
        assert found["long_axis_mm"] == pytest.approx(90, abs=0.1)


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


ZONES = (Zone((slice(0, 400), slice(0, 240)), (0.3, 0.2)), Zone((slice(0, 400), slice(250, 500)), (0.1, 0.1)))


def disk(*centers: tuple[int, int]) -> np.ndarray:
    rows, columns = np.ogrid[:400, :500]
    disks = [(rows - row) ** 2 + (columns - column) ** 2 <= 400 for row, column in centers]
    return np.logical_or.reduce(disks).astype(np.uint8)


@pytest.mark.parametrize(
    ("center", "row", "column"), [((200, 100), 0.3, 0.2), ((200, 400), 0.1, 0.1), ((200, 20), 0.3, 0.2)]
)
def test_a_structure_is_measured_by_the_region_that_it_lies_in(
    center: tuple[int, int], row: float, column: float
) -> None:
    place = Geometry((400, 500), 224, zones=ZONES)
    record = Measures().record(disk(center), STRUCTURES, place)
    count = int(disk(center).sum())
    assert record["areas"]["lesion"] == {"pixels": count, "mm2": round(count * row * column, 4)}
    assert record["measures"]["lesion"]["height_mm"] == pytest.approx(41 * row)
    assert record["measures"]["lesion"]["width_mm"] == pytest.approx(41 * column)


@pytest.mark.parametrize("centers", [[(200, 245)], [(200, 100), (200, 400)], [(200, 232)], [(200, 259)]])
def test_a_structure_across_two_regions_has_no_millimeters(centers: list[tuple[int, int]]) -> None:
    record = Measures("lesion").record(disk(*centers), STRUCTURES, Geometry((400, 500), 224, zones=ZONES))
    assert record["areas"]["lesion"] == {"pixels": int(disk(*centers).sum()), "mm2": None}
    assert {v for key, v in record["measures"]["lesion"].items() if key != "cut"} == {None}
    assert set(record["fetal_head"].values()) == {None}


def test_what_lies_in_no_region_has_the_spacing_that_the_user_tells() -> None:
    zones = (Zone((slice(0, 100), slice(0, 500)), (0.3, 0.2)),)
    told = Geometry((400, 500), 224, (0.5, 0.5), "user", zones)
    assert told.spacing_of((slice(100, 200), slice(0, 10))) == (0.5, 0.5)
    assert told.spacing_of((slice(0, 100), slice(0, 10))) == (0.3, 0.2)
    assert np.isnan(told.spacing_of((slice(99, 200), slice(0, 10)))).all()
