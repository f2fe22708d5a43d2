# SPDX-License-Identifier: Apache-2.0
import csv
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from bundle.report import InteractionReport, InteractionTrials
from bundle.tables import read_table

CLICKS = str(Path(__file__).resolve().parents[2] / "configs/evaluate_clicks.yaml")


def rows(image: str, dice: list[float], *, box: float, wrong: list[float]) -> list[dict[str, Any]]:
    origin = {"dataset": "A", "image": image, "patient": image, "group": image, "structure": "lesion"}
    found = [{**origin, "trial": "clicks", "clicks": n, "dice": d} for n, d in enumerate(dice)]
    found += [{**origin, "trial": "wrong", "clicks": 3 + n, "dice": d} for n, d in enumerate(wrong)]
    return [*found, {**origin, "trial": "box", "clicks": 0, "dice": box}]


def report(folder: Path, *batches: list[dict[str, Any]]) -> dict[str, Any]:
    engine = Engine(lambda engine, batch: batch)
    InteractionReport(str(folder), split="test").attach(engine)
    engine.run(list(batches))
    (entry,) = json.loads((folder / "clicks.json").read_text())
    return dict(entry)


def test_means_goals_and_the_change_by_a_wrong_click(tmp_path: Path) -> None:
    good = rows("/data/a.png", [0.5, 0.86, 0.9], box=0.8, wrong=[0.7, 0.88])
    poor = rows("/data/b.png", [0.1, 0.2, 0.4], box=0.6, wrong=[0.4, 0.5])
    entry = report(tmp_path, good, poor)
    assert entry["images"] == entry["patients"] == 2
    assert [entry["dice"][str(n)]["value"] for n in range(3)] == pytest.approx([0.3, 0.53, 0.65])
    assert entry["box"]["value"] == pytest.approx(0.7)
    # the wrong click is the third: 0.9 -> 0.7 and 0.4 -> 0.4; one more makes 0.88 and 0.5
    assert entry["wrong"]["after"] == 2
    assert entry["wrong"]["change"]["value"] == pytest.approx(-0.1)
    assert entry["wrong"]["change_after_one_more"]["value"] == pytest.approx(0.04)
    # a reaches 0.85 with one click and 0.90 with two; b never does and counts with two
    assert entry["goals"]["0.85"] == {"clicks": {"value": 1.5, "low": 1.0, "high": 2.0}, "reached": 0.5}
    assert entry["goals"]["0.90"]["clicks"]["value"] == 2.0
    assert entry["goals"]["0.95"]["reached"] == 0.0


def test_tables_and_picture_name_no_folder(tmp_path: Path) -> None:
    report(tmp_path, rows(str(tmp_path / "secret/a.png"), [0.5] * 11, box=0.8, wrong=[0.4, 0.5]))
    text = (tmp_path / "clicks.md").read_text()
    assert "| A, lesion | 1 | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 0.800 |" in text
    assert "| A, lesion | 10.0, 0% | 10.0, 0% | 10.0, 0% | -0.100 | 0.000 |" in text
    table = list(csv.DictReader((tmp_path / "clicks.csv").open()))
    assert {row["image"] for row in table} == {"a.png"}
    assert len(table) == 14
    with Image.open(tmp_path / "clicks.png") as picture:
        assert min(picture.size) > 200


def test_odd_names_break_no_table_and_no_picture(tmp_path: Path) -> None:
    names = ["=1+1.png", os.fsdecode(b"-\xff.png"), "@a,\n.png"]
    found = [rows(f"/data/{name}", [0.5, 0.6, 0.7], box=0.8, wrong=[0.4, 0.5]) for name in names]
    for row in itertools.chain(*found):
        row["dataset"] = f"$A^|{os.fsdecode(bytes([255]))}"
    report(tmp_path, *found)
    table = read_table(tmp_path / "clicks.csv")
    assert list(dict.fromkeys(row["image"] for row in table)) == names
    with (tmp_path / "clicks.csv").open(newline="") as file:
        assert not [row for row in csv.DictReader(file) if row["image"][0] in "=-@"]
    assert r"| $A^/\udcff, lesion | 3 |" in (tmp_path / "clicks.md").read_text()


def test_folder_that_cannot_be_written_stops_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in its place")
    engine = Engine(lambda engine, batch: batch)
    InteractionReport(str(tmp_path / "out"), split="test").attach(engine)
    with pytest.raises(OSError, match=r"out must be a writable folder, got: .*--output_dir"):
        engine.run([[]])


def obedient(image: torch.Tensor, network: Any, *, prompt: torch.Tensor) -> dict[str, torch.Tensor]:
    """Finds a structure wherever something is wanted, and nothing without guidance."""
    wanted = image[:, 3:].unflatten(1, (-1, 2))[:, :, 0] if image.shape[1] > 3 else torch.zeros(1, 2, *image.shape[2:])
    wanted[:, 0] = 0.5
    return {"seg": wanted}


def draw(item: dict[str, Any]) -> dict[str, Any]:
    """One pixel for each click; two slots, as there are two structures."""
    guidance = torch.zeros(2, 2, *item["image"].shape[1:])
    for slot, said in item["guidance"].items():
        for channel, key in enumerate(("wanted", "unwanted")):
            for row, column in said[key]:
                guidance[slot, channel, int(row), int(column)] = 1
    image = torch.cat([item["image"], guidance.flatten(0, 1)]) if item["guidance"] else item["image"]
    return {"image": image}


def test_trials_of_a_structure_of_three_pixels() -> None:
    """Each click wins one pixel: Dice 0, 2/4, 4/5, 1; then nothing is left to correct."""
    label = torch.zeros(1, 1, 5, 9)
    label[0, 0, 2, 3:6] = 1
    meta = {"filename_or_obj": "a.png"}
    batch = {
        "image": MetaTensor(torch.zeros(1, 3, 5, 9), meta=meta), "label": label, "prompt": torch.zeros(1, 4),
        "labeled": torch.ones(1, 2, dtype=torch.bool), "dataset": ["A"], "patient": ["p"], "group": ["g"],
    }  # fmt: skip
    trials = InteractionTrials(
        inferer=obedient,
        draw=draw,
        postprocessing=lambda item: {"pred": item["pred"]["seg"].argmax(0, keepdim=True)},
        structures=["background", "lesion"],
        max_clicks=4,
        wrong_after=2,
    )
    engine = Engine(lambda engine, batch: None)
    engine.network, engine.state.device = torch.nn.Identity(), torch.device("cpu")
    found = {(row["trial"], row["clicks"]): row["dice"] for row in trials(engine, batch)}
    assert [found["clicks", n] for n in range(5)] == pytest.approx([0, 2 / 4, 4 / 5, 1, 1])
    assert found["wrong", 3] == pytest.approx(4 / 6)  # two pixels of three, and one beside them
    assert found["wrong", 4] == pytest.approx(6 / 7)
    assert found["box", 0] == 0  # this network does not know boxes
    assert {row["group"] for row in trials(engine, batch)} == {"g"}


@pytest.mark.parametrize("most", [3, 1])
def test_the_shipped_overlay_runs(run_training: Callable[..., None], tmp_path: Path, most: int) -> None:
    run_training(tmp_path)
    run_training(tmp_path, CLICKS, run_id="run", output_dir=str(tmp_path / "eval"), max_clicks=most)
    entries = json.loads((tmp_path / "eval/clicks.json").read_text())
    assert [(e["dataset"], e["structure"]) for e in entries] == [("Breast", "lesion"), ("Limb", "vessel")]
    assert all(0 <= e["dice"][str(n)]["value"] <= 1 for e in entries for n in range(most + 1))
    assert np.isfinite([e["box"]["value"] for e in entries]).all()
