# SPDX-License-Identifier: Apache-2.0
"""What clients ask a MONAI Label server for, over HTTP: masks of images, many at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.monai_label.client import STRUCTURES, Answer, Server

pytestmark = pytest.mark.label
ROOT = Path(__file__).resolve().parents[2]
STUDIES = {
    "gray": ".png",
    "color": ".png",
    "photo": ".png",  # of a JPEG: JPEG would blur the label map
    "volume": ".nii.gz",
    "plane": ".nii.gz",  # of two axes
    "vectors": ".nii.gz",  # of colors
    "nearly": ".nrrd",
}
"""Study -> suffix of its label map where the client asks for none."""


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def said(answer: Answer) -> str:
    """All that an answer says but how long it took."""
    return json.dumps({key: value for key, value in answer.params.items() if key != "latencies"}, sort_keys=True)


# -- automatic ------------------------------------------------------------------------------------------------------
def test_choices_begin_with_unknown_and_both_models_have_their_labels(server: Server) -> None:
    models = server.get("info/")["models"]
    automatic, interactive = (models[name] for name in (server.model, server.click_model))
    assert (automatic["type"], interactive["type"]) == ("segmentation", "deepedit")
    assert automatic["labels"] == {name: i for i, name in enumerate(STRUCTURES) if i}
    assert interactive["labels"] == {name: i for i, name in enumerate(STRUCTURES)}
    for model in (automatic, interactive):
        assert model["dimension"] == 2
        assert [model["config"][name][0] for name in ("position", "nature", "task")] == ["unknown"] * 3
        assert {"breast", "head", "limb"} < set(model["config"]["position"])


@pytest.mark.parametrize("suffix", ["", ".nrrd"], ids=["own format", "as 3D Slicer and OHIF ask"])
@pytest.mark.parametrize("study", STUDIES)
def test_result_has_the_geometry_of_the_study(server: Server, study: str, suffix: str) -> None:
    asked = {"result_extension": suffix, "result_dtype": "uint8"} if suffix else {}
    answer, (image, affine) = server.infer(study, **asked), server.study(study)
    assert answer.file.endswith(suffix or STUDIES[study])
    assert answer.pixels.shape[:2] == image.shape[:2]
    assert answer.pixels.size == image.shape[0] * image.shape[1]
    assert answer.pixels.dtype.kind in "iu"
    assert set(np.unique(answer.pixels)) <= set(range(len(STRUCTURES)))
    np.testing.assert_allclose(answer.affine, affine, atol=1e-4)


def test_image_that_is_sent_along_gets_the_result_of_the_same_image_on_the_server(server: Server) -> None:
    sent, stored = server.infer(file=server.studies / "color.png"), server.infer("color")
    assert (said(sent), sent.mask.tolist()) == (said(stored), stored.mask.tolist())


OFF_CENTER = [27, 175, 142, 79, 368, 76, 284, 176]
"""BUSI's benign images whose lesion overlaps little with its turned and mirrored copies, and is found on its side."""


TURNS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda a, turns=turns, mirror=mirror: np.ascontiguousarray(np.rot90(a.T if mirror else a, turns))
    for mirror in (False, True)
    for turns in range(4)
]
AS_IS, TRANSPOSED, LEFT_RIGHT = TURNS[0], TURNS[4], TURNS[5]


@pytest.fixture(scope="module")
def lesions(real_data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Square cuts of real images, and their lesions."""
    found = []
    for number in OFF_CENTER:
        stem = str(real_data / "Dataset_BUSI_with_GT/benign" / f"benign ({number})")
        image, mask = (np.asarray(Image.open(stem + end).convert("L")) for end in (".png", "_mask.png"))
        side, inside = min(mask.shape), np.argwhere(mask)
        top, left = (int(np.clip(inside[:, i].min() - 10, 0, mask.shape[i] - side)) for i in (0, 1))
        found.append((image[top : top + side, left : left + side], mask[top : top + side, left : left + side] > 0))
    return found


@pytest.mark.parametrize("turn", [AS_IS, LEFT_RIGHT, TRANSPOSED], ids=["as it is", "mirrored", "transposed"])
def test_mask_lies_as_the_image_does(
    server: Server,
    lesions: list[tuple[np.ndarray, np.ndarray]],
    turn: Callable[..., np.ndarray],
    write: Callable[..., Path],
    tmp_path: Path,
) -> None:
    scores = []
    for i, (image, truth) in enumerate(lesions):
        file = write(tmp_path / ("turned.nii.gz" if i % 2 else "turned.png"), turn(image))
        pred = server.infer(file=file, position="breast").mask > 0
        scores.append([dice(pred, other(turn(truth))) for other in TURNS])
    right, *wrong = np.mean(scores, 0)
    assert right > max(wrong) + 0.25, f"Dice {right:.2f}; with the truth turned wrongly {np.round(wrong, 2)}"


def test_answer_holds_prompts_areas_and_classes(server: Server) -> None:
    answer = server.infer("volume", nature="tumor")
    params, counts = answer.params, np.bincount(answer.mask.ravel(), minlength=len(STRUCTURES))
    assert params["prompts"] == {"position": "unknown", "nature": "tumor", "task": "unknown"}
    assert list(params["areas"]) == STRUCTURES[1:]
    for count, area in zip(counts[1:], params["areas"].values(), strict=True):
        assert area["pixels"] == count
        assert area["mm2"] == pytest.approx(count * 0.2 * 0.3, abs=1e-3)
    organ = params["organ"]["predicted"]
    assert list(params["classes"]) == [name for name in ("breast", "lung", "gallbladder") if name == organ]
    for found in params["classes"].values():
        probabilities = found["probabilities"]
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert probabilities[found["predicted"]] == max(probabilities.values())
    assert params["prediction"][-1]["label"] == f"organ: {organ}"
    asked = server.infer("volume", position="lung").params
    assert [entry["label"] for entry in asked["prediction"]] == [
        *(f"lung: {name}" for name in asked["classes"]["lung"]["probabilities"]),
        f"organ: {asked['organ']['predicted']}",
    ]


def test_a_picture_that_is_no_ultrasound_gets_no_finding_unless_clicked(server: Server, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    Image.fromarray(np.full((70, 104), 255, np.uint8)).save(page)
    answer = server.infer(file=page, position="breast")
    assert answer.params["notes"] == "does not look like ultrasound (one value throughout); nothing is reported"
    assert (answer.params["classes"], answer.params["prediction"]) == ({}, [])
    assert not answer.mask.any()
    clicked = server.click(file=page, lesion=[[50, 30]])
    assert clicked.params["notes"] == "does not look like ultrasound (one value throughout)"
    assert clicked.mask[30, 50] == 1


def test_position_leaves_only_its_structures_and_classes(server: Server) -> None:
    for study in ("gray", "color", "many_3"):
        answer = server.infer(study, position="breast")
        assert set(np.unique(answer.mask)) <= {0, 1}
        assert list(answer.params["classes"]) == ["breast"]
    assert server.infer("gray").params["prompts"]["position"] == "unknown"  # the choice does not stick


def test_an_unknown_image_an_extension_and_a_file_without_suffix_are_named(server: Server, tmp_path: Path) -> None:
    shutil.copy2(server.studies / "gray.png", tmp_path / "scan")
    for options, status, message in (
        ({"image": "no_such_study"}, 404, "no_such_study"),
        ({"image": "gray", "result_extension": ".exe"}, 400, "result_extension"),
        ({"image": "", "file": tmp_path / "scan"}, 500, "file must have a name that ends with one of .png"),
    ):
        answer = server.ask(model=server.model, **options)
        assert answer.status_code == status
        assert message in answer.json()["detail"]
    assert server.infer(file=tmp_path / "scan", result_extension=".nrrd").mask.shape == (70, 104)


def test_pixels_of_one_millimeter_are_no_spacing(server: Server, write: Callable[..., Path], tmp_path: Path) -> None:
    """Clients wrap pictures as NIfTI or NRRD that say 1 mm."""
    image = server.study("gray")[0].T
    params = server.infer(file=write(tmp_path / "wrapped.nii.gz", image), position="breast").params
    assert params["spacing_mm"] == {"row": None, "column": None, "source": None}
    assert {area["mm2"] for area in params["areas"].values()} == {None}


@pytest.mark.skipif(not shutil.which("curl"), reason="the document's requests need curl")
def test_requests_of_the_document_work(server: Server, tmp_path: Path) -> None:
    text = (ROOT / "docs/monai_label.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.search(r"\bcurl .*/(infer|datastore|activelearning)/", line)]
    assert len(lines) == 9
    (tmp_path / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    try:
        for line in lines:
            command = line.replace("http://127.0.0.1:8000", server.url)
            environment = os.environ | {"CURL_HOME": str(tmp_path)}
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    finally:
        server.remove_label("breast1")  # no other test trains on it
    assert Image.open(tmp_path / "mask.png").size == (104, 70)


# -- many at a time -------------------------------------------------------------------------------------------------
MOST_GROWTH = 100  # MB of resident memory over 100 requests, after the first 20


@pytest.mark.parametrize("training", [False, True], ids=["alone", "while a training runs"])
def test_hundred_requests_at_once_get_each_its_own_answer(
    server: Server, labeled: list[str], training: bool, record_property: Callable[[str, object], None]
) -> None:
    studies = [f"many_{i}" for i in range(20)]
    clicked = {name: {"lesion": [[30, 20, 0]]} for name in studies[::4]}

    def ask(name: str) -> tuple[str, list[Any]]:
        model = server.click_model if name in clicked else server.model
        answer = server.infer(name, model, **clicked.get(name, {}))
        return said(answer), answer.mask.tolist()

    alone = {name: ask(name) for name in studies}
    assert len({json.dumps(answer) for answer in alone.values()}) == len(studies), "answers must tell images apart"
    weights, before = server.weights, server.memory
    if training:
        server.train_on()
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, studies * 5))
    after = server.memory
    record_property("resident memory of the server", f"{before:.0f} MB, after 100 requests {after:.0f} MB")
    if training:
        assert server.running("train")
        server.stop("train")
        assert server.finish("train")["status"] == "STOPPED"
    wrong = [name for name, answer in zip(studies * 5, answers, strict=True) if answer != alone[name]]
    assert not wrong
    assert after < before + MOST_GROWTH, f"resident memory: {before:.0f} MB before, {after:.0f} MB after"
    assert server.weights == weights
