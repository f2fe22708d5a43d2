# SPDX-License-Identifier: Apache-2.0
import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from skimage.measure import label

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs/inference.yaml")
SMALL = {"encoder": "test_convnext", "decoder_channels": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of different sizes and kinds."""
    random = np.random.default_rng(0)
    top = tmp_path / "images"
    (top / "sub").mkdir(parents=True)
    Image.fromarray(random.integers(0, 255, (40, 70), np.uint8)).save(top / "a.png")
    Image.fromarray(random.integers(0, 255, (90, 50, 3), np.uint8)).save(top / "a.jpg")
    Image.fromarray(random.integers(0, 255, (30, 30), np.uint8)).save(top / "sub/b.png")
    (top / "notes.txt").write_text("no image")
    return top


def run(folder: Path, out: Path, weights: Path, **options: Any) -> list[dict[str, Any]]:
    overrides = {"bundle_root": str(ROOT), "dataset_dir": str(folder), "output_dir": str(out), "num_workers": 0}
    workflow = ConfigWorkflow(
        workflow_type="infer", config_file=CONFIG, meta_file=None, logging_file=False,
        **{**overrides, **SMALL, "ckpt_path": str(weights), **options},
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    images: list[dict[str, Any]] = json.loads((out / "predictions.json").read_text())["images"]
    return images


def test_command_line_reports_the_bad_file_and_does_the_rest(folder: Path, tmp_path: Path, weights: Path) -> None:
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "zero.png").touch()
    options = {"dataset_dir": folder, "output_dir": tmp_path / "out", "ckpt_path": weights, **SMALL}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    text = done.stdout + done.stderr
    assert "cut.png: cannot be decoded" in text
    assert "zero.png: file must hold an image, got 0 bytes" in text
    assert "2 files failed: cut.png, zero.png" in text
    assert "Iteration" in done.stderr  # the progress bar
    records = {r["file"]: r for r in json.loads((tmp_path / "out/predictions.json").read_text())["images"]}
    assert sorted(records) == ["a.jpg", "a.png", "cut.png", "sub/b.png", "zero.png"]
    assert [name for name, record in records.items() if record["error"]] == ["cut.png", "zero.png"]
    for file, mask, size in (
        ("a.png", "a.png", (70, 40)),
        ("a.jpg", "a.jpg", (50, 90)),
        ("sub/b.png", "sub/b", (30, 30)),
    ):
        assert records[file]["mask"] == f"{mask}_mask.png"
        with Image.open(tmp_path / "out" / f"{mask}_mask.png") as written:
            assert written.size == size
            assert np.asarray(written).max() < 5
        with Image.open(tmp_path / "out" / f"{mask}_overlay.png") as written:
            assert written.size == size


def test_named_organ_limits_structures_and_classes(folder: Path, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "prompts.csv").write_text("file,position\nsub/b.png,lung\n")
    images = run(folder, tmp_path / "out", weights, position="breast", prompts=str(tmp_path / "prompts.csv"))
    found = {image["file"]: image for image in images}
    assert list(found["a.png"]["classes"]) == ["breast"]
    assert list(found["sub/b.png"]["classes"]) == ["lung"]
    assert found["sub/b.png"]["prompts"] == {"position": "lung", "nature": "unknown", "task": "unknown"}
    assert all(found["a.png"]["areas"][name]["pixels"] == 0 for name in ("head", "nerve", "vessel"))
    assert all(area["pixels"] == 0 for area in found["sub/b.png"]["areas"].values())


def test_a_second_run_does_not_read_the_first_ones_results(folder: Path, tmp_path: Path, weights: Path) -> None:
    for _ in range(2):
        assert len(run(folder, folder / "out", weights)) == 3


def listing(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_truth_beside_the_images_is_kept_to_the_byte(
    folder: Path, tmp_path: Path, weights: Path, reasons: Callable[[BaseException], str]
) -> None:
    """The truth of the last image, so that others would be written before it; by the folder's name and by a link."""
    Image.fromarray(np.full((30, 30), 7, np.uint8)).save(folder / "sub/b_mask.png")
    before = listing(folder)
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, tmp_path / "link"):
        with pytest.raises(RuntimeError) as caught:
            run(folder, out, weights)
        assert re.search(r"sub/b_mask\.png: .*got a file that no earlier run lists", reasons(caught.value))
        assert listing(folder) == before
    (folder / "sub/b_mask.png").unlink()
    for _ in range(2):  # and again over its own results
        assert len(run(folder, folder, weights)) == 3
    Image.fromarray(np.full((30, 30), 7, np.uint8)).save(folder / "sub/b_mask.png")  # corrected by hand
    before = listing(folder)
    with pytest.raises(RuntimeError) as caught:
        run(folder, folder, weights)
    assert re.search(r"sub/b_mask\.png: .*changed since an earlier run wrote it", reasons(caught.value))
    assert listing(folder) == before


def test_probability_maps_agree_with_the_masks(folder: Path, tmp_path: Path, weights: Path) -> None:
    plain = run(folder, tmp_path / "plain", weights)
    assert not list((tmp_path / "plain").rglob("*.npz"))
    images = run(folder, tmp_path / "out", weights, probabilities="true", lanes=2, batch_size=2)
    assert [{k: v for k, v in image.items() if k != "probabilities"} for image in images] == plain
    for image in images:
        mask = np.asarray(Image.open(tmp_path / "out" / image["mask"]))
        with np.load(tmp_path / "out" / image["probabilities"]) as found:
            assert found["structures"].tolist() == ["background", "lesion", "head", "nerve", "vessel"]
            assert found["probabilities"].shape == (5, *mask.shape)
            assert np.array_equal(found["probabilities"].argmax(0), mask), image["file"]
            np.testing.assert_allclose(found["probabilities"].astype(np.float32).sum(0), 1, atol=0.002)
    assert len({Path(image["probabilities"]).name for image in images}) == 3


def test_lengths_in_millimeters_where_a_spacing_is_told(folder: Path, tmp_path: Path, weights: Path) -> None:
    options = {"position": "breast", "check_images": False}
    (plain, *_) = run(folder, tmp_path / "plain", weights, **options)
    (told, *_) = run(folder, tmp_path / "told", weights, spacing=[0.5, 0.25], **options)
    assert plain["areas"]["lesion"]["pixels"] == told["areas"]["lesion"]["pixels"] > 0
    assert plain["spacing_mm"] == {"row": None, "column": None, "source": None}
    assert plain["measures"]["lesion"]["width_mm"] is None
    assert told["spacing_mm"] == {"row": 0.5, "column": 0.25, "source": "user"}
    assert told["areas"]["lesion"]["mm2"] == pytest.approx(told["areas"]["lesion"]["pixels"] / 8)
    with Image.open(tmp_path / "told" / told["mask"]) as file:
        parts = label(np.array(file) == 1, connectivity=2)
    rows, columns = np.nonzero(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    assert told["measures"]["lesion"]["height_mm"] == (np.ptp(rows) + 1) * 0.5
    assert told["measures"]["lesion"]["width_mm"] == (np.ptp(columns) + 1) * 0.25
    assert (
        "Hadlock" in json.loads((tmp_path / "told/predictions.json").read_text())["fetal_head"]["gestational_age_weeks"]
    )


def test_masks_are_upright_and_at_their_place(tmp_path: Path, weights: Path) -> None:
    """Turning the image by half turns the mask: a swap of axes or a shifted letterbox would break that."""
    blob = np.zeros((64, 128), np.uint8)
    blob[4:20, 8:40] = 255
    top = tmp_path / "images"
    top.mkdir()
    for name, pixels in (("wide", blob), ("tall", blob.T.copy())):
        Image.fromarray(pixels).save(top / f"{name}.png")
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    parser.update({**SMALL, "bundle_root": str(ROOT)})
    preprocessing = parser.get_parsed_content("preprocessing")
    postprocessing = parser.get_parsed_content("postprocessing")
    for name, pixels in (("wide", blob), ("tall", blob.T)):
        item = preprocessing({"image": str(top / f"{name}.png"), "position": "breast"})
        # a network that sees lesion where it is bright
        bright = item["image"].as_tensor()[0] > 0
        item["pred"] = {"seg": torch.stack([~bright, bright]).float() * 20, "cls_breast": torch.zeros(3)}
        assert np.array_equal(postprocessing(item)["pred"].numpy().T == 1, pixels == 255), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "brest"}, r"position must be one of \['breast', .*got 'brest'"),
        ({"dataset_dir": "/nowhere"}, "expected a folder with images, got no such folder"),
        ({"ckpt_path": "/nowhere/model.pt"}, r"/nowhere/model\.pt"),
        ({"encoder": "convnext_atto"}, "convnext_atto"),
        ({"probabilities": "yes"}, "probabilities must be true or false, got 'yes'; correct --probabilities"),
    ],
)
def test_errors_say_what_to_do(
    folder: Path, tmp_path: Path, weights: Path, options: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "bundle_root": str(ROOT), "dataset_dir": str(folder), "output_dir": str(tmp_path / "out"), "num_workers": 0,
        "ckpt_path": str(weights), **SMALL, **options,
    }  # fmt: skip
    workflow = ConfigWorkflow(
        workflow_type="infer", config_file=CONFIG, meta_file=None, logging_file=False, **arguments
    )
    workflow.initialize()
    with pytest.raises((RuntimeError, ValueError, OSError), match=r"\w") as caught:
        workflow.run()
    error: BaseException | None = caught.value
    while error is not None and not re.search(message, str(error)):
        error = error.__cause__  # MONAI wraps errors of components in its own
    assert error is not None, caught.value
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_bundle_properties_are_complete(folder: Path) -> None:
    workflow = ConfigWorkflow(
        workflow_type="infer", config_file=CONFIG, meta_file=str(ROOT / "configs/metadata.json"), logging_file=False,
        bundle_root=str(ROOT), dataset_dir=str(folder),
    )  # fmt: skip
    workflow.initialize()
    assert not workflow.check_properties()


def test_loader_processes_change_no_file(folder: Path, tmp_path: Path, weights: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "other"
    assert run(folder, first, weights) == run(folder, second, weights, num_workers=1)
    files = sorted(path.relative_to(first) for path in first.rglob("*.png"))
    assert len(files) == 6
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_what_is_no_ultrasound_is_told_and_gets_no_finding(
    folder: Path, tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on, with status 0; the images of ultrasound get what they get without the check."""
    for number in range(6):
        Image.fromarray(np.full((40, 60), 128, np.uint8)).save(folder / f"gray{number}.png")
    images = {image["file"]: image for image in run(folder, tmp_path / "out", weights, position="breast")}
    unchecked = {
        image["file"]: image for image in run(folder, tmp_path / "all", weights, position="breast", check_images=False)
    }
    note = "does not look like ultrasound (one value throughout); nothing is reported"
    for number in range(6):
        found = images[f"gray{number}.png"]
        assert (found["notes"], found["classes"], found["error"]) == (note, {}, "")
        assert all(area == {"pixels": None, "mm2": None} for area in found["areas"].values())
        assert not np.asarray(Image.open(tmp_path / "out" / found["mask"])).any()
        assert unchecked[f"gray{number}.png"]["classes"]
    for file in ("a.png", "a.jpg", "sub/b.png"):
        assert images[file] == unchecked[file]
        assert images[file]["classes"]
    with (tmp_path / "out/predictions.csv").open(newline="") as table:
        rows = {row["file"]: row for row in csv.DictReader(table)}
    assert rows["gray0.png"]["notes"] == note
    assert rows["gray0.png"]["areas.lesion.pixels"] == rows["gray0.png"]["classes.lung.predicted"] == ""
    warnings = [r.getMessage() for r in caplog.records if "does not look like ultrasound" in r.getMessage()]
    assert len(warnings) == 1  # in the checked run
    assert warnings[0].startswith(
        "6 of 9 images: does not look like ultrasound, nothing is reported of them: gray0.png, gray1.png, gray2.png,"
        " gray3.png, gray4.png and 1 more. "
    )
    assert "--check_images false" in warnings[0]
