# SPDX-License-Identifier: Apache-2.0
"""What is seen of a frame: the live view and the inference on a folder agree, and nothing is found beside it."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from bundle.data.phantom.frames import make_screen
from bundle.live import Frame, build_segmenter
from bundle.live.cine import to_picture
from bundle.transforms.readers import read_file

ROOT = Path(__file__).resolve().parents[2]
SEEN = {"crop_sector": True, "split_panels": True}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], list[dict[str, Any]]]:
    """A folder of a frame with two images and one with a fan, their sectors, and the results of the shipped config."""
    folder, out = tmp_path_factory.mktemp("screens"), tmp_path_factory.mktemp("found")
    inside = {}
    for name, kind in (("two", "touching"), ("fan", "convex")):
        screen = make_screen(kind, np.random.default_rng(11))
        Image.fromarray(screen.pixels).save(folder / f"{name}.png")
        inside[name] = np.logical_or.reduce(screen.sectors)
    options = {"dataset_dir": str(folder), "output_dir": str(out), "bundle_root": str(ROOT), "device": "cpu"}
    workflow = ConfigWorkflow(
        workflow_type="infer", config_file=str(ROOT / "configs/inference.yaml"), meta_file=None, logging_file=False,
        **{**options, **SEEN, "probabilities": True, "position": "breast", "gate": "$None"},
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    return out, inside, json.loads((out / "predictions.json").read_text())["images"]


def test_masks_have_the_size_of_the_frame_and_lie_in_the_sectors(
    results: tuple[Path, dict[str, np.ndarray], list[dict[str, Any]]],
) -> None:
    out, inside, records = results
    notes = {record["file"]: record["notes"] for record in records}
    assert "2 images side by side" in notes["two.png"]
    assert "side by side" not in notes["fan.png"]
    for name, sector in inside.items():
        mask = np.asarray(Image.open(out / f"{name}_mask.png"))
        assert mask.shape == sector.shape
        maps = np.load(out / f"{name}_probabilities.npz")["probabilities"].astype(np.float32)
        rows, columns = np.flatnonzero(sector.any(1)), np.flatnonzero(sector.any(0))
        beside = np.ones_like(sector)
        beside[max(0, rows[0] - 8) : rows[-1] + 9, max(0, columns[0] - 8) : columns[-1] + 9] = False
        assert not mask[beside].any()
        assert (maps[0][beside] == 1).all()
        assert (maps[0][~beside] < 0.99).any()  # the network has looked there
        assert np.abs(maps.sum(0) - 1).max() < 0.01


def test_the_live_view_sees_the_same(tmp_path: Path) -> None:
    segmenter = build_segmenter(ROOT, prompts={"position": "breast"}, gate="$None", **SEEN)
    for seed, (kind, places) in enumerate((("touching", 2), ("convex", 1), ("touching", 2))):
        screen = make_screen(kind, np.random.default_rng(seed))  # a frame of another size is looked at anew
        Image.fromarray(screen.pixels).save(tmp_path / "frame.png")
        picture = to_picture(read_file(str(tmp_path / "frame.png")))
        found = segmenter(Frame(0, 0.0, time.perf_counter(), picture)).answers["seg"].label_map.numpy()
        assert found.shape == screen.pixels.shape[:2]
        assert max(1, len(segmenter.view.windows)) == places
        assert segmenter.view.inside is not None
        assert (found[~segmenter.view.inside] > 0).mean() < 0.01
