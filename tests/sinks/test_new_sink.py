# SPDX-License-Identifier: Apache-2.0
"""A new kind of file is one class and one block of a config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from bundle.sinks import PredictionWriter
from bundle.tables import read_table
from bundle.tasks import Records
from tests.sinks.conftest import TASKS

ROOT = Path(__file__).resolve().parents[2]

WORDS = """
from bundle.sinks import Sink

class Words(Sink):
    ending = ".words.txt"

    def image(self, study, findings):
        text = f"{study.item['file']}: {findings.result['areas']['lesion']['pixels']} of {findings.mask.size}"
        return text.encode()

class Contents(Sink):
    def files(self, run):
        return ["contents.txt"]

    def start(self, run):
        self.run, self.lines = run, []

    def image(self, study, findings):
        self.lines.append(f"{study.item['file']} {study.error or study.files['words']}")

    def finish(self):
        return [self.run.folder.write("contents.txt", "\\n".join(self.lines).encode())]
"""
OVERLAY = {"+sinks": {"words": {"_target_": "own_sinks.Words"}, "contents": {"_target_": "own_sinks.Contents"}}}


@pytest.fixture
def infer(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the shipped config with the overlay on an image and a broken file; gives the results' folder."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/own_sinks.py").write_text(WORDS)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "own.json").write_text(json.dumps(OVERLAY))
    (tmp_path / "in").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 70), np.uint8)).save(tmp_path / "in/a.png")
    (tmp_path / "in/bad.png").write_bytes(b"no image")

    def run(**options: Any) -> Path:
        workflow = ConfigWorkflow(
            workflow_type="infer", config_file=[str(ROOT / "configs/inference.yaml"), str(tmp_path / "own.json")],
            meta_file=None, logging_file=False, bundle_root=str(ROOT), dataset_dir=str(tmp_path / "in"),
            output_dir=str(tmp_path / "out"), ckpt_path=str(weights), num_workers=0, encoder="test_convnext",
            decoder_channels=16, lanes=1, **options,
        )  # fmt: skip
        workflow.initialize()
        with pytest.raises(SystemExit, match="1"):
            workflow.run()
        return tmp_path / "out"

    return run


def test_an_overlay_adds_a_sink_and_its_column(infer: Callable[..., Path]) -> None:
    out = infer()
    mask = np.asarray(Image.open(out / "a_mask.png"))
    assert (out / "a.words.txt").read_text() == f"a.png: {np.count_nonzero(mask == 1)} of 2800"
    assert not (out / "bad.words.txt").exists()
    good, bad = json.loads((out / "predictions.json").read_text())["images"]
    assert list(good)[-3:] == ["mask", "overlay", "words"]
    assert (good["words"], bad["words"]) == ("a.words.txt", None)
    assert [row["words"] for row in read_table(out / "predictions.csv")] == ["a.words.txt", ""]
    first, second = (out / "contents.txt").read_text().splitlines()
    assert first == "a.png a.words.txt"
    assert second.startswith("bad.png must be a readable image")


def test_files_of_a_new_sink_are_checked_before_any_is_written(
    infer: Callable[..., Path], tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.words.txt").write_text("mine")
    with pytest.raises(RuntimeError) as caught:
        infer()
    assert "a.words.txt: expected a free name or an unchanged file of an earlier run" in reasons(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.words.txt"]


@pytest.mark.parametrize("off", [{"#_disabled_": True}, {"": "$None"}], ids=["disabled", "None"])
def test_sinks_can_be_left_out(infer: Callable[..., Path], off: dict[str, Any]) -> None:
    out = infer(**{f"sinks#{name}{key}": value for name in ("overlay", "tables") for key, value in off.items()})
    assert sorted(path.name for path in out.glob("[!.]*")) == ["a.words.txt", "a_mask.png", "contents.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sinks": "$None"}, "sinks must be a table of names and sinks, got None; switch one off with --sinks#NAME"),
        ({"sinks#mask": 3}, "sinks#mask must be a sink, such as bundle.sinks.Masks, got 3; correct it"),
        (
            {
                f"sinks#{name}": "$None"
                for name in ("mask", "overlay", "probabilities", "tables", "clips", "words", "contents")
            },
            "sinks must hold one that is on, got none",
        ),
        ({"tasks": "$None"}, "tasks must be a table of names and tasks, got None"),
        ({"tasks#foo": 3}, "tasks#foo must be a task, such as bundle.tasks.Masks, or a list of them, got 3"),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_sinks_and_tasks_that_are_none_are_refused(
    infer: Callable[..., Path],
    tmp_path: Path,
    reasons: Callable[[BaseException], str],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(**options)
    assert message in reasons(caught.value)
    assert not (tmp_path / "out").exists()


class WithBrightness(Records):
    """What results hold with one more answer."""

    @property
    def complete(self) -> dict[str, Any]:
        return {**super().complete, "brightness": {"mean": None}}

    def empty(self, item: Any) -> dict[str, Any]:
        return {**super().empty(item), "brightness": {"mean": None}}


def test_a_new_answer_is_a_column_that_no_sink_knows(
    writer: Callable[..., PredictionWriter],
    item: Callable[..., dict[str, Any]],
    run: Callable[..., None],
    tmp_path: Path,
) -> None:
    one, failed = item("a.png"), item("b.png", place=1, error="b.png: cannot be decoded")
    one["result"] = {**one["result"], "brightness": {"mean": 3.5}, "classes": {}}
    run(writer(answers=WithBrightness(TASKS)), one, failed, fails=True)
    good, bad = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert (good["brightness"], bad["brightness"]) == ({"mean": 3.5}, {"mean": None})
    rows = read_table(tmp_path / "out/predictions.csv")
    assert [row["brightness.mean"] for row in rows] == ["3.5", ""]
    assert list(rows[0])[-3:] == ["brightness.mean", "mask", "overlay"]
