# SPDX-License-Identifier: Apache-2.0
"""Still frames against whole clips, with counts and tests worked out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.report.stills import KEY, WHOLE, Clip, compare, read_clips
from bundle.tables import read_table
from scripts.clip_frames import main


def clip(name: str, positive: bool, *scores: float, key: int = 0) -> Clip:
    return Clip(name, name, positive, np.array(scores), key)


def test_stills_are_evenly_spaced() -> None:
    one = clip("a", True, *np.linspace(0, 0.9, 10), key=7)
    assert one.score(1) == pytest.approx(0.5)
    assert one.score(2) == pytest.approx((0.2 + 0.7) / 2)
    assert one.score(KEY) == pytest.approx(0.7)
    assert one.score(WHOLE) == one.score(10) == one.score(25) == pytest.approx(0.45)


def test_the_test_counts_the_clips_that_differ() -> None:
    lost = [clip(f"l{i}", True, 0.9, 0.1, 0.9) for i in range(6)]  # right with all frames alone
    won = [clip("w", True, 0.1, 0.9, 0.1)]
    both = [clip(f"b{i}", True, 0.8, 0.8, 0.8) for i in range(3)]
    normal = [clip(f"n{i}", False, 0.1, 0.7 if i == 0 else 0.2, 0.1) for i in range(4)]
    found = compare([*lost, *won, *both, *normal], 1, threshold=0.5, resamples=50, seed=0)
    sensitivity, specificity = found["sensitivity"], found["specificity"]
    assert (sensitivity["clips"], sensitivity["worse"], sensitivity["better"]) == (10, 6, 1)
    assert sensitivity["share"]["value"] == pytest.approx(0.4)
    assert sensitivity["p"] == pytest.approx(2 * (1 + 7) / 2**7)  # 0 or 1 of 7, and the other tail
    assert (specificity["share"]["value"], specificity["worse"], specificity["p"]) == (0.75, 1, 1.0)
    assert compare(normal, 1, threshold=0.5, resamples=50, seed=0)["sensitivity"]["share"]["value"] is None


def frame(file: str, number: int | None, malignant: float | None, *, area: int = 0, error: str = "") -> dict[str, Any]:
    rest = None if malignant is None else 1 - malignant
    classes = {"breast": {"probabilities": {"normal": rest, "malignant": malignant}}}
    return {"file": file, "frame": number, "error": error, "classes": classes, "areas": {"lesion": {"pixels": area}}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    images = [
        frame("a.mp4", 4, 0.2), frame("a.mp4", 0, 0.9), frame("a.mp4", 2, 0.9, area=9),
        frame("b.mp4", 0, 0.3), frame("b.mp4", 1, None), frame("b.mp4", 2, 0.9, error="cut"),
        frame("c.mp4", 0, None), frame("d.mp4", 0, 0.6), frame("still.png", None, 0.9),
    ]  # fmt: skip
    (tmp_path / "predictions.json").write_text(json.dumps({"images": images}))
    return tmp_path


def run(results: Path, *rows: str, positive: str = "malignant") -> int:
    truth = results / "truth.csv"
    truth.write_text("\n".join(["file,class,patient", *rows]) + "\n")
    options = ["--label_set", "breast", "--positive", positive, "--frames", "1"]
    return main([str(results), "--truth", str(truth), *options])


def test_the_command_joins_results_and_truth(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(results, "a.mp4,malignant,p1", "b.mp4,normal,p1", "c.mp4,normal,p2") == 0
    said = capsys.readouterr().out
    assert "2 clips of 1 patients" in said
    assert "without an answer: c.mp4" in said
    assert "d.mp4" in said.splitlines()[-2]
    rows = read_table(results / "clip_frames.csv")
    assert [row["frames"] for row in rows] == ["all frames", "key frame", "1 evenly spaced"]
    assert [row["sensitivity"] for row in rows] == ["1.000"] * 3  # 0.67, 0.9 and 0.9
    assert [row["specificity: clips"] for row in rows] == ["1"] * 3
    assert run(results, "a.mp4,malignant,p1") == 0


def test_case_blanks_and_repeated_classes_change_nothing(results: Path) -> None:
    truth, rows = results / "truth.csv", ["a.mp4, Malignant ,p1", "b.mp4,Normal,p1", "d.mp4,MALIGNANT,p2"]
    truth.write_text("\n".join(["File,label,Patient_ID", *rows]) + "\n")
    clips, _, _ = read_clips(results, truth, label_set="breast", positive=["malignant", "Malignant", "malignant"])
    assert [(one.patient, one.positive) for one in clips] == [("p1", True), ("p1", False), ("p2", True)]
    assert clips[2].scores.tolist() == [0.6]


@pytest.mark.parametrize("label_set", ["thyroid", "Breast "])
def test_a_label_set_that_the_results_lack_is_refused(results: Path, label_set: str) -> None:
    (results / "truth.csv").write_text("file,class\na.mp4,normal\n")
    with pytest.raises(ValueError, match=f"frames of clips with the classes of {label_set} expected, got none"):
        read_clips(results, results / "truth.csv", label_set=label_set, positive=["malignant"])


@pytest.mark.parametrize(
    ("rows", "positive", "reason"),
    [
        (["x.mp4,normal,p"], "malignant", "files of the results expected, got none of them"),
        (["a.mp4,normal,p", "a.mp4,normal,p"], "malignant", "line 3: a.mp4 once expected"),
        (["a.mp4,,p"], "malignant", "line 2: a file and a class expected"),
        (["a.mp4,normal,p"], "cyst", "--positive: a class of normal, malignant expected, got 'cyst'"),
        (["a.mp4,normal,p", "b.mp4,malign,p"], "malignant", "line 3: a class of normal, malignant expected, got"),
        (["a.mp4,1,p"], "malignant", "line 2: a class of normal, malignant expected, got '1'"),
    ],
)
def test_what_does_not_fit_is_refused(
    results: Path, rows: list[str], positive: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(results, *rows, positive=positive) == 2
    assert reason in capsys.readouterr().err
