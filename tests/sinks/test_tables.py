# SPDX-License-Identifier: Apache-2.0
import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bundle import __version__
from bundle.files import LEDGER, sha256
from bundle.sinks import PredictionWriter
from bundle.tables import read_table

Writer = Callable[..., PredictionWriter]
Item = Callable[..., dict[str, Any]]
Run = Callable[..., None]


def test_masks_hold_indices_and_tables_hold_numbers(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    run(writer(), item("sub/a.png"))
    out = tmp_path / "out"
    with Image.open(out / "sub/a_mask.png") as mask:
        assert mask.mode == "L"
        assert np.bincount(np.asarray(mask).ravel()).tolist() == [47, 3, 4]
        assert np.asarray(mask)[0].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0]
    with Image.open(out / "sub/a_overlay.png") as overlay:
        assert overlay.size == (9, 6)
    found = json.loads((out / "predictions.json").read_text())
    digest = sha256(tmp_path / "model.pt")
    assert found["model"] == {"version": __version__, "weights_sha256": digest, "runtime": "torch"}
    assert found["structures"][1] == {"value": 1, "name": "lesion", "color": "#e6194b"}
    (record,) = found["images"]
    assert record["file"] == "sub/a.png"
    assert record["areas"] == {"lesion": {"pixels": 3, "mm2": 0.3}, "head": {"pixels": 4, "mm2": 0.4}}
    assert record["classes"]["breast"]["predicted"] == "malignant"
    assert record["classes"]["lung"]["probabilities"] == {"healthy": 0.75, "pneumonia": 0.25}
    (row,) = csv.DictReader((out / "predictions.csv").open(newline=""))
    assert row["areas.lesion.mm2"] == "0.3"
    assert row["classes.breast.probabilities.benign"] == "0.2"
    assert row["mask"] == "sub/a_mask.png"
    assert str(tmp_path) not in (out / "predictions.json").read_text()
    assert {path.name for path in out.rglob("*.*")} == {
        LEDGER, "a_mask.png", "a_overlay.png", "predictions.json", "predictions.csv"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("position", "sets"),
    [("unknown", ["breast", "lung"]), ("indis", ["breast", "lung"]), ("breast", ["breast"]), ("head", [])],
)
def test_classes_are_those_of_the_named_organ(
    writer: Writer, item: Item, run: Run, tmp_path: Path, position: str, sets: list[str]
) -> None:
    run(writer(), item("a.png", position=position))
    (record,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert sorted(record["classes"]) == sets
    assert record["prompts"]["position"] == position


def test_area_in_mm2_is_null_without_spacing(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    run(writer(), item("a.png", spacing=torch.tensor([float("nan")] * 2)))
    (record,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert record["areas"]["head"] == {"pixels": 4, "mm2": None}
    assert record["spacing_mm"] == {"row": None, "column": None, "source": None}


def test_names_are_no_formulas_and_break_no_table(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    names = ["=1+1.png", "+a.png", "-a/b.png", "@a.png", 'a,"b"\n=c.png', "\ta.png", "\ra.png"]
    names.append(os.fsdecode(b"=\xff.png"))
    handler = writer()
    items = [item(name, place=place) for place, name in enumerate(names)]
    with pytest.raises(KeyError, match="image"):  # interrupted
        run(handler, *items, {})
    partial = read_table(tmp_path / "out/predictions.partial.csv")
    run(handler, *items)
    table = read_table(tmp_path / "out/predictions.csv")
    assert [row["file"] for row in table] == [row["file"] for row in partial] == names
    assert [(tmp_path / "out" / row["mask"]).is_file() for row in table] == [True] * 8
    assert {row["areas.head.pixels"] for row in table} == {"4"}
    images = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))["images"]
    assert [image["file"] for image in images] == names
    with (tmp_path / "out/predictions.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'=1+1.png" in cells


def test_records_keep_the_order_of_the_data_set(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    names = [f"{n:02}.png" for n in range(40)]
    items = [item(name, place=n) for n, name in enumerate(names)]
    items[3]["picture"] = np.zeros((6, 9, 3), np.uint8)  # in color
    run(writer(), *items)
    out = tmp_path / "out"
    assert [r["file"] for r in json.loads((out / "predictions.json").read_text())["images"]] == names
    assert [row["file"] for row in csv.DictReader((out / "predictions.csv").open(newline=""))] == names
    assert len(list(out.glob("*_mask.png"))) == len(list(out.glob("*_overlay.png"))) == 40
    black, gray = (np.asarray(Image.open(out / f"{name}_overlay.png")) for name in ("03", "04"))
    assert black[2, 2].tolist() == [0, 0, 0]
    assert gray[2, 2].tolist() == [100, 100, 100]


@pytest.mark.parametrize("name", ["predictions.json", "predictions.csv", "predictions.partial.csv"])
def test_tables_of_others_stop_the_run_before_any_work(
    writer: Writer, item: Item, run: Run, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{name}: .*got a file that no earlier run lists"):
        run(writer(), item("a.png"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_an_interrupted_run_keeps_its_rows_and_the_earlier_tables(
    writer: Writer, item: Item, run: Run, tmp_path: Path
) -> None:
    run(writer(), item("a.png"))
    before = (tmp_path / "out/predictions.csv").read_text()
    with pytest.raises(KeyError, match="image"):
        run(writer(), item("b.png"), {})
    assert (tmp_path / "out/predictions.csv").read_text() == before
    partial = (tmp_path / "out/predictions.partial.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in partial] == ["file", "b.png"]
