# SPDX-License-Identifier: Apache-2.0
"""What bad input does: each case with the test that holds its message.

============================== =========================================================================================
case                           test
============================== =========================================================================================
truncated image                transforms/test_loading.py::test_bad_files_are_named
truncated image, training      test_bad_input.py::test_training_stops_and_names_the_file
truncated image, inference     test_inference.py::test_command_line_reports_the_bad_file_and_does_the_rest
zero-byte image                transforms/test_loading.py::test_bad_files_are_named
directory in place of a file   transforms/test_loading.py::test_bad_files_are_named
mask of another size           transforms/test_loading_masks.py::test_bad_masks_are_named
mask value outside the table   transforms/test_loading_masks.py::test_bad_masks_are_named
class out of range             data/test_datalist.py::test_a_bad_manifest_is_refused_by_file_item_and_key
class out of range, evaluation metrics/test_classification.py::test_a_class_out_of_range_is_refused_by_name
empty split                    data/test_datalist.py::test_a_manifest_that_does_not_fit_the_network_is_refused
empty split, training          test_bad_input.py::test_training_refuses
one-image data set             test_bad_input.py::test_one_image_trains
unknown organ                  transforms/test_prompts.py::test_unknown_organ_names_item_and_choices
unknown organ, inference       test_inference.py::test_errors_say_what_to_do
unknown task                   transforms/test_prompts.py::test_unknown_task_is_refused
NaN image                      transforms/test_loading.py::test_bad_files_are_named
NaN image, TIFF                test_bad_input.py::test_training_stops_and_names_the_file
NaN loss                       engines/test_handlers.py::test_a_loss_that_is_not_finite_stops_the_training
1x1 and 8000x6000 images       transforms/test_loading.py::test_one_pixel_and_a_large_image
1x1 image, transformed         test_bad_input.py::test_tiny_images_pass_through
8000x6000 image, transformed   test_bad_input.py::test_a_large_image_passes_through
manifest item without a key    data/test_datalist.py::test_a_bad_manifest_is_refused_by_file_item_and_key
checkpoint of another network  networks/test_weights.py::test_checkpoints_of_other_networks_are_refused
resuming another network       engines/test_resumed_runs.py::test_another_run_is_not_resumed
pickled payload                networks/test_weights.py::test_pickled_payload_is_refused_and_not_executed
resuming a pickled payload     test_bad_input.py::test_resuming_a_payload_is_refused_and_not_executed
truncated checkpoint           networks/test_weights.py::test_truncated_checkpoint_is_refused
unwritable folder, training    engines/test_checkpoints.py::test_an_unwritable_folder_stops_the_run_at_its_start
unwritable folder, evaluation  report/test_report.py::test_an_output_folder_that_cannot_be_written_stops_before_the_work
unwritable folder, inference   sinks/test_writer.py::test_output_folder_that_cannot_be_written_stops_before_any_work
no disk left                   engines/test_checkpoints.py::test_a_disk_without_room_keeps_the_old_checkpoint
no disk left, conversion       networks/test_weights.py::test_failed_save_keeps_the_former_file
no disk left, predictions      sinks/test_writer.py::test_a_full_disk_stops_the_run_and_is_named_with_the_picture
============================== =========================================================================================
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from bundle.networks.weights import read_file

TESTS = Path(__file__).parent
Train = Callable[..., None]
Reasons = Callable[[BaseException], str]


def test_the_table_names_tests_that_exist() -> None:
    cases = re.findall(r"^.{31}(\S+\.py)::(\w+)$", __doc__, re.MULTILINE)
    assert len(cases) == 33
    for file, name in cases:
        assert f"\ndef {name}(" in (TESTS / file).read_text(), f"{file}::{name}"


def with_tiff(path: Path, pixels: np.ndarray) -> None:
    """A float TIFF under the name of a PNG: files are known by their content."""
    Image.fromarray(pixels).save(path, format="TIFF")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (
        lambda folder: os.truncate(folder / "Breast1.png", 300),
        r"Breast1\.png: .*cannot be decoded: .*; copy it again or remove it",
    ),
    "nan": (
        lambda folder: with_tiff(folder / "Breast1.png", np.full((44, 56), np.nan, np.float32)),
        r"Breast1\.png: .*pixels must be finite, got NaN",
    ),
    "other size": (
        lambda folder: Image.new("L", (9, 8)).save(folder / "Breast1_mask.png"),
        r"Breast1_mask\.png: mask must have the size of its image .*Breast1\.png, 44x56 .*, got 8x9",
    ),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", DAMAGE)
def test_training_stops_and_names_the_file(
    run_training: Train, tiny_data: Path, tmp_path: Path, reasons: Reasons, kind: str, workers: int
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, dataset_dir=str(folder), num_workers=workers)
    assert re.search(message, reasons(caught.value))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], dict[str, Any], str]] = {
    "empty split": (
        lambda manifest: [item.update(split="train") for item in manifest["items"]],
        {},
        r"datalist\.json: expected items in split 'val', got none; the manifest has \{'train': 20\}\. Make it again",
    ),
    "weights": (
        lambda manifest: None,
        {"task_weights": "null"},
        "task_weights must map names to weights, or be None, got 'null'; write --task_weights '\\$None'",
    ),
    "fold": (lambda manifest: None, {"fold": 3}, r"expected fold to be one of the manifest's folds \[\], got 3"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_training_refuses(run_training: Train, tiny_data: Path, tmp_path: Path, reasons: Reasons, kind: str) -> None:
    change, options, message = CHANGES[kind]
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    change(manifest)
    (tmp_path / "datalist.json").write_text(json.dumps(manifest | {"root": str(tiny_data)}))
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, **{"dataset_dir": str(tmp_path), **options})
    assert re.search(message, reasons(caught.value))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_one_image_trains(run_training: Train, tiny_data: Path, tmp_path: Path, norm: str) -> None:
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    one = next(item for item in manifest["items"] if item.get("class") == "malignant")
    (tmp_path / "datalist.json").write_text(json.dumps(manifest | {"root": str(tiny_data), "items": [one]}))
    run_training(tmp_path, dataset_dir=str(tmp_path), norm=norm, **{"validate#dataset#data": []})
    weights = read_file(tmp_path / "models/model.pt")["model"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def pass_through(path: Path, *, width: int, height: int) -> None:
    """An image and its mask through the shipped transforms of training, and of validation and back."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[: (height + 1) // 2] = 1
    Image.fromarray(pixels * 200).save(path / "image.png")
    Image.fromarray(pixels).save(path / "mask.png")
    parser = ConfigParser(ConfigParser.load_config_file(TESTS.parent / "configs/train.yaml"))
    parser.update({"bundle_root": str(TESTS.parent), "local_crops": 1.0})
    item = {"image": str(path / "image.png"), "label": str(path / "mask.png")}
    sample = parser.get_parsed_content("train#preprocessing")(item)
    assert sample["image"].shape == (3, 224, 224)
    assert sample["targets"]["seg"]["label"].shape == (1, 224, 224)
    assert torch.isfinite(sample["image"]).all()
    sample = parser.get_parsed_content("validate#preprocessing")(item)
    bright = sample["image"][0].as_tensor() * 20
    seg = torch.stack([-bright, bright, *[torch.full_like(bright, -100)] * 3])  # lesion where it is bright
    sample["pred"] = {"seg": seg, "cls_breast": torch.zeros(3)}
    result = parser.get_parsed_content("validate#postprocessing")(sample)
    assert result["pred"].shape == result["label"].shape == (1, height, width)
    assert (result["pred"] == result["label"]).float().mean() > 0.99


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (300, 1)])
def test_tiny_images_pass_through(tmp_path: Path, width: int, height: int) -> None:
    pass_through(tmp_path, width=width, height=height)


@pytest.mark.slow
def test_a_large_image_passes_through(tmp_path: Path) -> None:
    pass_through(tmp_path, width=8000, height=6000)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["payload", "truncated", "weights"])
def test_resuming_a_payload_is_refused_and_not_executed(
    run_training: Train, tmp_path: Path, reasons: Reasons, kind: str
) -> None:
    last = tmp_path / "run/last.pt"
    last.parent.mkdir()
    if kind == "payload":
        torch.save({"network_config": Payload(tmp_path / "executed")}, last)
    elif kind == "weights":
        torch.save({"model": {}, "network_config": {}}, last)
    else:
        last.write_bytes(b"PK")
    with pytest.raises(RuntimeError) as caught:
        run_training(tmp_path, resume=True)
    assert re.search(
        r"last\.pt must be the checkpoint of a training, got a damaged or different file \(\w+\), of which nothing was "
        r"executed; start anew without --resume",
        reasons(caught.value),
    )
    assert not (tmp_path / "executed").exists()
