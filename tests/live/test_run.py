# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor, nn

from bundle.engines import PromptedInferer
from bundle.live import Frame, FrameSegmenter, Letterbox, Result, RunOptions, blank, open_source, run_live
from bundle.live.outputs import JsonLines
from bundle.live.sources import CaptureSource
from bundle.tasks import Masks, Records, class_tasks
from bundle.vocabulary import Organs

ORGANS = Organs({"breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]}, "indis": {}})
TASKS = [Masks(ORGANS), *class_tasks(ORGANS)]


class SlowNetwork(nn.Module):
    """Says lesion where the picture is bright, after a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def predict(self, image: Tensor, prompt: Tensor) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        lead = image.mean(1, keepdim=True) * 20
        return {"seg": torch.cat([-lead, lead], 1), "cls_breast": torch.tensor([[0.0, 1.0]])}


def segmenter(seconds: float = 0.0) -> FrameSegmenter:
    return FrameSegmenter(
        SlowNetwork(seconds),
        inferer=PromptedInferer(TASKS, ORGANS.positions),
        letterbox=Letterbox(64, mean=[0.2] * 3, std=[0.2] * 3),
        records=Records(TASKS),
        prompts={},
        positions=ORGANS.positions,
        window=1,
        check_images=False,
    )


def run(source: object, segment: Callable[[Frame], Result], **options: object) -> dict[str, object]:
    return run_live(source, segment, tasks=TASKS, options=RunOptions(**options))  # type: ignore[arg-type]


def test_outputs_of_a_clip(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    source = open_source(str(write_clip(rate=20.0)))
    summary = run(source, segmenter(), loops=2, output=tmp_path / "o.mp4", jsonl=tmp_path / "o.jsonl")
    assert summary["frames"] == 12
    assert summary["dropped"] == 0
    assert summary["ended"] == "end of the source"
    assert summary["settings"] == {"realtime": False, "loops": 2, "rate": 20.0}
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(12))
    assert set(lines[0]) == {"frame", "time", "latency_ms", "classes", "areas", "measures", "notes"}
    assert lines[3]["time"] == 0.15
    # Frames 4 and 5 are brighter than 51 of 255; all of them has 48 x 64 pixels but the dark square of 8 x 8.
    assert [line["areas"]["lesion"]["pixels"] > 2900 for line in lines[:6]] == [False] * 4 + [True] * 2
    assert lines[0]["areas"]["lesion"]["mm2"] is None
    assert lines[0]["classes"]["breast"]["predicted"] == "malignant"
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20)


def test_a_line_has_what_each_task_records(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "o.jsonl")
    found = {"prompts": {}, "spacing_mm": {}, "brightness": 0.25, "notes": "dark", "prediction": []}
    lines.write(Result(blank(8, 8), {}, found, work=0.0, latency=0.5))
    lines.close()
    expected = {"frame": 0, "time": 0.0, "latency_ms": 500.0, "brightness": 0.25, "notes": "dark"}
    assert json.loads((tmp_path / "o.jsonl").read_text()) == expected


def test_real_time_drops_what_a_slow_network_cannot_take(write_clip: Callable[..., Path]) -> None:
    source = open_source(str(write_clip(frames=30, rate=100.0)))
    summary = run(source, segmenter(0.05), realtime=True)
    assert summary["dropped"] > 0  # type: ignore[operator]
    assert summary["frames"] + summary["dropped"] == 30  # type: ignore[operator]


def test_ctrl_c_ends_with_the_report_and_whole_files(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    segment = segmenter()

    def interrupting(frame: Frame) -> Result:
        if frame.index == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return segment(frame)

    former = signal.getsignal(signal.SIGINT)
    source = open_source(str(write_clip()))
    summary = run(source, interrupting, loops=100_000, jsonl=tmp_path / "o.jsonl", output=tmp_path / "o.mp4")
    assert summary["ended"] == "stopped by the user"
    assert signal.getsignal(signal.SIGINT) is former
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(lines) == summary["frames"] >= 6  # type: ignore[operator]
    assert cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == len(lines)


def test_a_lost_camera_ends_with_the_report(write_clip: Callable[..., Path]) -> None:
    summary = run(CaptureSource(str(write_clip()), camera=True), segmenter())
    assert summary["ended"] == "camera stopped giving frames after 6"
    assert summary["settings"]["realtime"] is True  # type: ignore[index]


def test_files_are_closed_when_the_network_fails(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    segment = segmenter()

    def failing(frame: Frame) -> Result:
        if frame.index == 3:
            raise ValueError("out of shape")
        return segment(frame)

    with pytest.raises(ValueError, match="out of shape"):
        run(open_source(str(write_clip())), failing, output=tmp_path / "o.mp4")
    assert cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) >= 2


@pytest.mark.slow
def test_memory_is_flat_over_many_frames(write_clip: Callable[..., Path]) -> None:
    summary = run(open_source(str(write_clip(frames=50))), segmenter(), loops=60)
    memory = summary["memory_mb"]
    assert summary["frames"] == 3000
    assert memory["end"] - memory["warm"] < 20  # type: ignore[index]
