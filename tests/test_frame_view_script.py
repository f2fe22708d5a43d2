# SPDX-License-Identifier: Apache-2.0
"""scripts/frame_view.py: pictures, counts and scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.data.phantom.frames import make_screen
from scripts.frame_view import main, score_screen


def test_sectors_are_drawn_and_masks_beside_them_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = make_screen("linear", np.random.default_rng(3))
    (tmp_path / "images").mkdir()
    (tmp_path / "out").mkdir()
    Image.fromarray(screen.pixels).save(tmp_path / "images/a.png")
    mask = np.zeros(screen.pixels.shape[:2], np.uint8)
    mask[2:6, 3:13] = 1  # beside the sector
    center = np.argwhere(screen.sectors[0]).mean(0).astype(int)
    mask[center[0] + 40 : center[0] + 43, center[1] : center[1] + 10] = 1
    Image.fromarray(mask).save(tmp_path / "out/a_mask.png")
    records = [{"file": "a.png", "frame": None, "mask": "a_mask.png"}]
    (tmp_path / "out/predictions.json").write_text(json.dumps({"images": records}))
    folders = ["--output_dir", str(tmp_path / "view"), "--masks", str(tmp_path / "out")]
    assert main([str(tmp_path / "images"), "--no-text", *folders]) == 0
    printed = capsys.readouterr().out
    assert "sum: 70; 40; " in printed
    with Image.open(tmp_path / "view/a.png_view.png") as picture:
        assert picture.size == mask.shape[::-1]
        assert (np.asarray(picture) == (0, 255, 0)).all(2).sum() > 500


def test_a_made_up_screen_is_scored() -> None:
    figures = score_screen("touching", np.random.default_rng(0), None)
    assert figures["sectors"] == 1
    assert (figures["IoU"] or 0) > 0.95
    assert figures["caliper recall"] == 1


def test_images_or_phantoms_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "give images, or --phantoms" in capsys.readouterr().err
