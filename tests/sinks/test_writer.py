# SPDX-License-Identifier: Apache-2.0
import json
import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from bundle.files import LEDGER, OutputFolder
from bundle.sinks import PredictionWriter

Writer = Callable[..., PredictionWriter]
Item = Callable[..., dict[str, Any]]
Run = Callable[..., None]


def test_failed_files_are_named_and_the_status_tells(
    writer: Writer, item: Item, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = item("bad.png", error=f"{tmp_path / 'in/bad.png'}: cannot be decoded; copy it again.")
    with pytest.raises(SystemExit, match="1"):
        run(writer(), bad, item("good.png"))
    found = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert [record["error"] for record in found] == ["cannot be decoded; copy it again.", ""]
    assert "bad.png: cannot be decoded; copy it again." in caplog.text
    assert "1 files failed: bad.png" in caplog.text
    assert not (tmp_path / "out/bad_mask.png").exists()
    assert (tmp_path / "out/good_mask.png").exists()


def test_a_clip_whose_frames_fail_is_named_once(
    writer: Writer, item: Item, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [item("m.dcm", frame=n, output=f"m_frame{n:05d}", place=n, error="is cut") for n in range(7)]
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit, match="1"):
        run(writer(), *frames, item("bad.png", place=7, error="is cut"), item("good.png", place=8))
    assert "2 files failed: m.dcm (7 frames), bad.png; the reasons are above" in caplog.text
    assert "1 of 9 images done" in caplog.text


def test_frames_that_the_run_leaves_out_keep_no_files_of_an_earlier_one(
    writer: Writer, item: Item, run: Run, tmp_path: Path
) -> None:
    def clip(*numbers: int) -> list[dict[str, Any]]:
        return [item("a/c.mp4", frame=n, output=f"a/c_frame{n:05d}", place=p) for p, n in enumerate(numbers)]

    out = tmp_path / "out"
    image = item("a/c_frame00009.png", place=3)
    run(writer(), *clip(0, 1, 2), image)
    (out / "a/c_frame00003_mask.png").write_bytes(b"mine")
    (out / "a/c_frame00001_overlay.png").write_bytes(b"changed")
    run(writer(), *clip(0, 2), image)
    assert sorted(path.name for path in (out / "a").iterdir()) == [
        "c_frame00000_mask.png", "c_frame00000_overlay.png", "c_frame00001_overlay.png", "c_frame00002_mask.png",
        "c_frame00002_overlay.png", "c_frame00003_mask.png", "c_frame00009_mask.png", "c_frame00009_overlay.png",
    ]  # fmt: skip


def test_an_odd_name_costs_no_other_file(
    writer: Writer, item: Item, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latin = os.fsdecode(b"Bef\xfcnd.png")  # not UTF-8
    long = "n" * 245 + ".png"
    with pytest.raises(SystemExit, match="1"):
        run(writer(), *(item(name, place=i) for i, name in enumerate([latin, long, "good.png"])))
    found = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))["images"]
    assert [record["file"] for record in found] == [latin, long, "good.png"]
    assert found[1]["error"] == "file name must leave room for _overlay.png, got 257 characters; shorten it."
    assert [record["mask"] is None for record in found] == [False, True, False]
    assert (tmp_path / "out" / found[0]["mask"]).exists()
    assert (tmp_path / "out/good_mask.png").exists()
    assert r"Bef\udcfcnd.png" in (tmp_path / "out/predictions.csv").read_text(encoding="utf-8")
    assert "1 files failed" in caplog.text


def full_disk_picture() -> dict[str, Any]:
    """A picture of noise, whose overlay has 200 kB."""
    return {"picture": np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes, as on a disk with that much left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_run_and_is_named_with_the_picture(
    writer: Writer, item: Item, run: Run, tmp_path: Path
) -> None:
    mask = torch.zeros(1, 240, 300, dtype=torch.uint8)
    items = [item("a.png"), item("b.png", mask=mask, **full_disk_picture())]
    with (
        largest_file(50_000),
        pytest.raises(
            OSError, match=r"b_overlay\.png could not be written .*File too large.*run the same command again"
        ),
    ):
        run(writer(), *items)
    out = tmp_path / "out"
    assert not (out / "predictions.json").exists()
    assert [line.split(",")[0] for line in (out / "predictions.partial.csv").read_text().splitlines()] == [
        "file",
        "a.png",
    ]
    assert {path.name for path in out.iterdir()} == {LEDGER, "a_mask.png", "a_overlay.png", "predictions.partial.csv"}
    run(writer(), *items)
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 2


def test_what_was_written_of_a_batch_that_failed_keeps_its_row(writer: Writer, item: Item, tmp_path: Path) -> None:
    (tmp_path / "out/b_overlay.png/in_its_place").mkdir(parents=True)
    handler = writer()
    engine = Engine(lambda _, batch: [handler(one) for one in batch])
    handler.attach(engine)
    with pytest.raises(FileExistsError, match=r"b_overlay\.png: expected a free name .*got no plain file"):
        engine.run([[item(f"{name}.png", place=n) for n, name in enumerate("abc")]])
    partial = (tmp_path / "out/predictions.partial.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in partial] == ["file", "a.png"]


def test_a_killed_run_of_several_and_a_user_beside_them(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    """Two runs with different images share the folder; a partial table that was left is taken over."""
    run(writer(), item("a.png"))
    killed = OutputFolder(tmp_path / "out")
    killed.grow("predictions.partial.csv")
    killed.append("predictions.partial.csv", b"rows of a killed run")
    run(writer(), item("b.png"))
    run(writer(), item("a.png"), item("b.png"))
    assert not (tmp_path / "out/predictions.partial.csv").exists()
    (tmp_path / "out/a_mask.png").write_bytes(b"corrected")
    with pytest.raises(FileExistsError, match=r"a_mask\.png: .*changed since"):
        run(writer(), item("a.png"))


def test_output_folder_that_cannot_be_written_stops_before_any_work(writer: Writer, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in its place")
    steps: list[int] = []
    engine = Engine(lambda engine, batch: steps.append(batch))
    writer().attach(engine)
    with pytest.raises(OSError, match=r"out must be a writable folder, got: .*--output_dir"):
        engine.run([1])
    assert not steps
