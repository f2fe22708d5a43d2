# SPDX-License-Identifier: Apache-2.0
import pickle

import numpy as np
import pytest
import torch

from bundle.data.phantom.frames import make_screen
from bundle.transforms.seeing import text
from bundle.transforms.seeing.text import TextFinder, inpainted, marks, strokes


def test_letters_are_found() -> None:
    pytest.importorskip("rapidocr", reason="text needs RapidOCR")
    finder = TextFinder()
    for kind in ("linear", "cropped"):
        screen = make_screen(kind, np.random.default_rng([5, 1]))
        image = torch.from_numpy(screen.pixels.copy()).permute(2, 0, 1).float() / 255
        letters = strokes(image, finder(image))
        assert letters[screen.text].mean() > 0.8
        assert screen.text[letters].mean() > 0.6


def test_tissue_is_no_text() -> None:
    pytest.importorskip("rapidocr", reason="text needs RapidOCR")
    screen = make_screen("cropped", np.random.default_rng([6, 1]))
    screen.pixels[screen.text | screen.calipers] = 90
    image = torch.from_numpy(screen.pixels.copy()).permute(2, 0, 1).float() / 255
    assert TextFinder()(image).mean() < 0.01


def test_loader_processes_open_a_detector_of_their_own() -> None:
    pytest.importorskip("rapidocr", reason="text needs RapidOCR")
    finder = TextFinder()
    finder.boxes(torch.zeros(3, 64, 64))
    assert pickle.loads(pickle.dumps(finder)).detector is None


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "HAS_RAPIDOCR", False)
    with pytest.raises(ImportError, match=r"mask_text needs RapidOCR.*\[text\]"):
        TextFinder()


def test_calipers_and_colored_lines_are_marks_and_layers_and_doppler_are_not() -> None:
    image = torch.full((3, 120, 160), 0.3)
    image[:, 60, 30:41] = image[:, 55:66, 35] = 1.0  # a caliper
    image[:, 20:23, 10:150] = 0.9  # a layer
    image[1, 105, 20:120] = 0.9  # a green line
    image[0, 70:100, 100:130] = 0.9  # Doppler
    found = marks(image)
    assert found[60, 30:41].all()
    assert found[105, 20:120].all()
    assert not found[18:26].any()
    assert not found[70:99, 100:130].any()
    assert found.sum() == 21 + 100


def test_what_is_masked_is_painted_over_with_what_surrounds_it() -> None:
    ramp = torch.linspace(0.2, 0.8, 60).expand(1, 40, 60).clone()
    mask = np.zeros((40, 60), bool)
    mask[20, 10:50] = True
    written = ramp.clone()
    written[0, 20, 10:50] = 1.0
    for image in (written, written.expand(3, -1, -1)):
        assert (inpainted(image, mask) - ramp).abs().max() < 0.01
    colored = written.repeat(3, 1, 1)
    assert torch.equal(inpainted(colored, np.zeros((40, 60), bool)), colored)
