# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bundle.files import LEDGER
from bundle.live import Frame, Picture, Result
from bundle.live.outputs import VideoFile, Window
from bundle.live.overlay import _paint, draw_result
from bundle.palette import color
from bundle.sinks.overlay import draw_overlay
from bundle.tasks import Masks, class_tasks
from bundle.tasks.masks import FoundMasks
from bundle.vocabulary import Organs

ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]},
        "head": {"structures": ["head"]},
        "indis": {},
    }
)
TASKS = [Masks(ORGANS), *class_tasks(ORGANS)]


def masks() -> np.ndarray:
    mask = np.zeros((300, 400), np.uint8)
    mask[100:220, 50:180] = 1
    mask[0:60, 300:400] = 2  # at the corner: no contour along the border
    mask[150:155, 60:66] = 0
    return mask


def test_structures_are_drawn_as_in_the_overlays_of_files() -> None:
    pixels, mask = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), masks()
    drawn = pixels.copy()
    for index in (1, 2):
        red, green, blue = color(index)
        _paint(drawn, (mask == index).astype(np.uint8), bgr=(blue, green, red), width=1)
    expected = draw_overlay(np.ascontiguousarray(pixels[..., ::-1]), mask)[..., ::-1]
    assert np.abs(drawn.astype(int) - expected).max() <= 1  # rounding of halves


def test_result_says_structures_and_classes_on_grey_and_color() -> None:
    mask = masks()
    classes = {"probabilities": torch.tensor([0.8, 0.2]), "shown": True, "asked": False}
    answers = {"seg": FoundMasks(torch.from_numpy(mask)), "cls_breast": classes}
    assert [text for task in TASKS for text, _ in task.captions(answers[task.name])] == [
        "lesion",
        "head",
        "breast: benign 0.80",
    ]
    for shape in ((300, 400), (300, 400, 3)):
        pixels = np.full(shape, 50, np.uint8)
        drawn = draw_result(Result(Frame(0, 0.0, 0.0, Picture(pixels)), answers, {"notes": ""}, 0.0, 0.0), TASKS)
        assert drawn.shape == (300, 400, 3)
        assert (pixels == 50).all()  # the frame itself stays
        assert (drawn[120, 50] == color(1)[::-1]).all()
        assert (drawn[260:, 200:] == 50).all()
        assert drawn[:50, :150].max() > 200  # the words


def test_video_has_rate_size_and_fits_other_sizes(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "new" / "out.mp4", rate=12.5)
    for shape in ((48, 64, 3), (48, 64, 3), (100, 50, 3)):
        video.write(np.full(shape, 200, np.uint8))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "new" / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    pictures = [capture.read()[1] for _ in range(3)]
    assert {p.shape for p in pictures} == {(48, 64, 3)}
    assert pictures[0].mean() > 190
    assert pictures[2][:, 30:34].mean() > 180  # 24 columns in the middle
    assert pictures[2][:, :15].mean() < 30


@pytest.mark.parametrize(("shape", "written"), [((47, 63), (48, 64)), ((47, 64), (48, 64)), ((48, 63), (48, 64))])
def test_video_of_an_odd_picture_keeps_every_row_and_column(
    tmp_path: Path, shape: tuple[int, int], written: tuple[int, int]
) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    picture[-9:], picture[:, -9:] = 240, 240  # at the lower and the right border
    video = VideoFile(tmp_path / "out.mp4", rate=25.0)
    for other in (picture, picture, np.full((94, 126, 3), 240, np.uint8)):
        video.write(other)
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    first, _, fitted = (capture.read()[1] for _ in range(3))
    assert first.shape == fitted.shape == (*written, 3)
    error = np.abs(first[: shape[0], : shape[1]].astype(int) - picture).mean()
    assert error < 8  # of compression
    assert first[shape[0] - 9 :].mean() > 225
    assert fitted.mean() > 225


def test_video_has_its_name_once_it_is_complete_and_the_former_until_then(tmp_path: Path) -> None:
    for number in range(2):
        video = VideoFile(tmp_path / "out.mp4", rate=25.0)
        before = (tmp_path / "out.mp4").read_bytes() if number else b""
        video.write(np.full((48, 64, 3), 200 * number, np.uint8))
        assert ((tmp_path / "out.mp4").read_bytes() if number else b"") == before
        video.close()
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).read()[1].mean() > 190
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, "out.mp4"]
    (tmp_path / "mine.mp4").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"mine\.mp4: .*another --output"):
        VideoFile(tmp_path / "mine.mp4", rate=25.0)


@pytest.mark.parametrize("rate", [66.667, 1000 / 15, 59.94006, 250.3, 0.5])
def test_video_takes_any_rate(tmp_path: Path, rate: float) -> None:
    video = VideoFile(tmp_path / "out.mp4", rate=rate)
    for _ in range(3):
        video.write(np.full((48, 64, 3), 200, np.uint8))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=0.002)


def test_video_that_cannot_be_written(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "out.nothing", rate=25.0)
    with pytest.raises(OSError, match=r"out\.nothing: expected a video that OpenCV can write"):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("GUI:                           NONE" not in cv2.getBuildInformation(), reason="OpenCV has windows")
def test_show_without_windows_is_refused() -> None:
    with pytest.raises(OSError, match="--show needs an OpenCV with windows"):
        Window()
