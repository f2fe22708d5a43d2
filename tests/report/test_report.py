# SPDX-License-Identifier: Apache-2.0
"""The files that an evaluation and a validation leave behind, from a real evaluator over real image files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from bundle.engines import MultiTaskScore
from bundle.metrics import Tolerance
from bundle.palette import color
from bundle.report import ContactSheet, EvaluationReport, draw_cases
from bundle.report.pictures import make_case
from bundle.report.tables import common_folder, end_with, without_folder
from bundle.tables import read_table
from bundle.tasks import Masks, Task, class_tasks
from bundle.tasks.masks import FoundMasks
from bundle.vocabulary import Organs

ORGANS = Organs({"breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]}, "indis": {}})
CASES = [  # file, data set, columns between truth and prediction (None: no truth), class, probability of malignant
    ("set_a/$1_$.png", "A", 0, 0, 0.1),
    ("set_a/two.png", "A", 5, 0, 0.6),
    ("set_b/one.png", "B", 10, 1, 0.4),
    ("set_b/none.png", "B", None, 1, 0.8),
]

NO_CLASS = {"cls_breast": torch.tensor(-1)}


def tasks(**options: Any) -> list[Task]:
    """Masks, scored with these options, and classes."""
    return [Masks(ORGANS, **options), *class_tasks(ORGANS)]


def make_item(folder: Path, case: tuple[str, str, int | None, int, float]) -> dict[str, Any]:
    name, dataset, shift, cls, positive = case
    label, pred = torch.zeros(1, 40, 60, dtype=torch.uint8), torch.zeros(1, 40, 60, dtype=torch.uint8)
    pred[0, 10:20, 10 + (shift or 0) : 20 + (shift or 0)] = 1
    if shift is not None:
        label[0, 10:20, 10:20] = 1
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    gray = np.random.default_rng(0).integers(40, 120, (40, 60)).astype(np.uint8)
    gray[10:20, 10:20] = 220
    Image.fromarray(gray).save(path)
    return {
        "image": MetaTensor(torch.zeros(3, 32, 32), meta={"filename_or_obj": str(path)}),
        "pred": MetaTensor(pred),
        "label": MetaTensor(label),
        "labeled": torch.tensor([True, True]),
        "spacing": torch.tensor([0.5, 2.0] if dataset == "A" else [math.nan, math.nan]),
        "targets": {"cls_breast": torch.tensor(cls)},
        "found": {
            "seg": FoundMasks(pred[0]),
            "cls_breast": {"probabilities": torch.tensor([1 - positive, positive]), "shown": True, "asked": True},
        },
        "dataset": dataset,
        "patient": str(path) if dataset == "B" else f"A/{name[-5]}",
        "group": str(path) if dataset == "B" else f"A/{name[-5]}",
        "error": "truncated" if name == "broken.png" else "",
    }


def evaluate(tmp_path: Path, handler_of: Any, cases: list[Any] = CASES, **options: Any) -> Engine:
    score = MultiTaskScore(tasks(tolerance=Tolerance(2.0, 0.02), **options))
    engine = Engine(lambda engine, batch: batch)
    score.attach(engine, "val_score")
    handler_of(score).attach(engine)
    items = [make_item(tmp_path / "secret", case) for case in cases]
    engine.run([items[:2], items[2:]])
    return engine


def report(tmp_path: Path, score: MultiTaskScore) -> EvaluationReport:
    weights = tmp_path / "model.pt"
    torch.save({"model": {"a": torch.tensor([1.0])}}, weights)
    return EvaluationReport(
        score, output_dir=str(tmp_path / "out"), weights=str(weights), split="test", resamples=50, worst=2
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    broken = ("broken.png", "A", 0, 0, 0.5)
    with pytest.raises(SystemExit, match=r"^1$"):  # an image could not be read
        evaluate(folder, lambda score: report(folder, score), cases=[*CASES, broken], protocol="paper")
    return folder / "out"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_per_image_csv(out: Path) -> None:
    rows = read_csv(out / "per_image.csv")
    native = {row["image"]: row for row in rows if row["protocol"] == "native"}
    assert set(native) == {case[0] for case in CASES}
    assert float(native["set_a/two.png"]["dice"]) == pytest.approx(0.5)
    assert (native["set_a/two.png"]["unit"], float(native["set_a/two.png"]["hd95"])) == (
        "mm",
        10.0,
    )  # 5 columns of 2 mm
    assert native["set_b/none.png"]["hd95"] == ""
    assert native["set_b/one.png"]["patient"] == "set_b/one.png"
    assert len([row for row in rows if row["protocol"] == "paper"]) == 4


def test_per_image_classification_csv(out: Path) -> None:
    rows = {row["image"]: row for row in read_csv(out / "per_image_classification.csv")}
    assert rows["set_b/one.png"]["truth"] == "malignant"
    assert rows["set_b/one.png"]["prediction"] == "benign"
    assert float(rows["set_b/one.png"]["probability_malignant"]) == pytest.approx(0.4)


def test_summary_json(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    cells = {(e["dataset"], e["structure"]): e for e in summary["segmentation"] if e["protocol"] == "native"}
    assert cells["A", "lesion"]["dice"]["value"] == pytest.approx(0.75)
    assert cells["A", "lesion"]["surface"]["mm"]["hd95"]["value"] == pytest.approx(5.0)
    assert cells["B", "lesion"]["false_alarm_rate"]["value"] == 1
    assert summary["classification"][0]["auroc"]["value"] == pytest.approx(3 / 4)
    assert summary["means"] == {"dice": pytest.approx(0.375), "auroc": pytest.approx(0.75)}
    assert (summary["images"], summary["patients"], summary["split"], summary["protocol"]) == (4, 4, "test", "native")
    assert summary["unreadable"] == [{"image": "broken.png", "error": "truncated"}]
    weights = out.parent / "model.pt"
    assert summary["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert summary["tensors_sha256"] == hashlib.sha256(b"a torch.float32 (1,)\n\x00\x00\x80\x3f").hexdigest()
    assert summary["gate"] == {}
    assert {e["structure"] for e in summary["segmentation"] if e["protocol"] == "paper"} == {"lesion"}


def test_markdown(out: Path) -> None:
    text = (out / "results.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") > 3 for line in tables)
    assert "| A | lesion | 2 | 2 | 2 | 0.750 (0.500 to 1.000) |" in text
    # squares that touch: 10 + 10 of 36 + 36 boundary pixels lie 1 pixel apart, the tolerance is 1.44
    assert "| B | lesion | 1 | 0.278 | 2 % of the diagonal | 10.0 | px |" in text
    assert "| breast | 4 | 4 | 0.500 (" in text
    assert text.count("Dice (paper protocol)") == 1
    assert "- broken.png: truncated" in text


def test_no_file_tells_where_the_data_lie(out: Path) -> None:
    for file in out.iterdir():
        assert b"secret" not in file.read_bytes(), file.name


def test_worst_cases_are_a_picture(out: Path) -> None:
    with Image.open(out / "worst_cases.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500


def test_an_output_folder_that_cannot_be_written_stops_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(OSError, match=r"must be a writable folder, got: .*choose others with --output_dir"):
        evaluate(tmp_path, lambda score: report(tmp_path, score))


def test_an_evaluation_without_masks_and_classes_still_reports(tmp_path: Path) -> None:
    def nothing(engine: Engine, batch: Any) -> Any:
        return [{**item, "labeled": torch.tensor([False, False]), "targets": NO_CLASS} for item in batch]

    score = MultiTaskScore(tasks())
    engine = Engine(nothing)
    score.attach(engine, "val_score")
    report(tmp_path, score).attach(engine)
    with pytest.warns(UserWarning, match="the score is 0"):
        engine.run([[make_item(tmp_path, CASES[0])]])
    assert "nothing was scored" in (tmp_path / "out" / "results.md").read_text()


def test_contact_sheet_spreads_over_data_sets_and_classes(tmp_path: Path) -> None:
    many = [(f"set_a/{i:02d}.png", "A", 1, int(i > 15), 0.3) for i in range(20)] + [("b.png", "B", 0, 0, 0.2)]
    sheet = ContactSheet(str(tmp_path / "new" / "sheet.png"), tasks(), max_images=5)
    evaluate(tmp_path, lambda score: sheet, cases=many)
    titles = [case.title for case in sheet._spread()]
    assert titles == ["A · 00", "A · 16", "A · 01", "A · 17", "B · b"]
    assert sheet._spread()[0].caption == "Dice lesion 0.90 · benign, predicted benign 0.70"
    with Image.open(tmp_path / "new" / "sheet.png") as picture:
        assert picture.format == "PNG"


def test_contact_sheet_is_drawn_for_the_best_epoch_only(tmp_path: Path) -> None:
    sheet = ContactSheet(str(tmp_path / "sheet.png"), tasks())
    engine = Engine(lambda engine, batch: batch)
    engine.state.best_metric_epoch = 3
    sheet.attach(engine)
    engine.run([[make_item(tmp_path, CASES[0])]])
    assert not (tmp_path / "sheet.png").exists()


def test_a_picture_shows_truth_left_and_prediction_right(tmp_path: Path) -> None:
    item = make_item(tmp_path, CASES[0])
    item["label"] = torch.zeros_like(item["label"])  # nothing on the left, red on the right
    drawn = draw_cases([make_case(item, title="t", caption="c")], structures=ORGANS.structures, heading="h", columns=1)
    pixels = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB")).astype(int)[100:]  # below heading and legend
    red = np.abs(pixels - color(1)).max(axis=2) < 30
    half = red.shape[1] // 2
    assert red[:, half:].sum() > 100
    assert red[:, :half].sum() == 0


def test_paths_are_shown_relative_to_their_common_folder() -> None:
    folder = common_folder(["/data/x/a/1.png", "/data/x/b/1.png"])
    assert folder == "/data/x"
    rows = without_folder([{"image": "/data/x/b/1.png", "other": "/else/2.png", "n": 3}], folder)
    assert rows == [{"image": "b/1.png", "other": "2.png", "n": 3}]
    assert common_folder([]) == ""


def test_odd_names_break_no_file_of_an_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["=1+1.png", "-a\n| b.png", os.fsdecode(b"+\xff.png"), "@a.png"]
    cases = [(name, "=A\n1", 0, 0, 0.5) for name in names] + [("broken.png", "B\n2", 0, 0, 0.5)]
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit, match=r"^1$"):
        evaluate(tmp_path, lambda score: report(tmp_path, score), cases=cases)
    out = tmp_path / "out"
    for name in ("per_image.csv", "per_image_classification.csv"):
        assert [row["image"] for row in read_table(out / name)] == names
        assert not [cell for row in read_csv(out / name) for cell in row.values() if cell[:1] in ("=", "+", "-", "@")]
    assert json.loads((out / "summary.json").read_text())["images"] == 4
    text = (out / "results.md").read_text(encoding="utf-8")
    assert r"| =A\n1 | lesion | 4 |" in text


def test_images_that_cannot_be_read_are_told_a_line_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"image": f"{n}.png", "error": "the file is cut; copy it again."} for n in range(7)]
    with pytest.raises(SystemExit, match=r"^1$"):
        end_with(rows)
    *lines, last = caplog.messages
    assert lines == [f"{n}.png: the file is cut; copy it again." for n in range(7)]
    assert last == (
        "7 images could not be read and are not scored: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more; the reasons are "
        "above and in the report."
    )
