# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, Resized
from PIL import Image

from bundle.transforms import (
    DescribePredictiond,
    Letterboxd,
    LoadUltrasoundd,
    SplitPredictiond,
    ToLabelMapd,
    ToStudyd,
)

STRUCTURES = ["background", "lesion", "nerve"]
LABEL_SETS = {"breast": ["normal", "benign", "malignant"], "lung": ["healthy", "pneumonia"]}
# 3 rows, 5 columns, no symmetry: any swap or flip changes it
MASK = np.array([[0, 1, 1, 0, 2], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.uint8)
PROBABILITIES = {"breast": torch.tensor([0.125, 0.25, 0.625]), "lung": torch.tensor([0.75, 0.25])}


def predicted(**item: Any) -> dict[str, Any]:
    return {
        "pred": MetaTensor(torch.from_numpy(MASK)[None].clone()),
        "probabilities": PROBABILITIES,
        "spacing": torch.tensor([0.5, 0.25]),
        "position": "unknown",
        **item,
    }


def describe(**item: Any) -> dict[str, Any]:
    result: dict[str, Any] = DescribePredictiond(STRUCTURES, LABEL_SETS)(predicted(**item))["result"]
    return result


@pytest.mark.parametrize(("name", "value"), [("seg", float("nan")), ("cls_lung", float("inf"))])
def test_a_model_that_gives_no_finite_number_is_named(name: str, value: float) -> None:
    pred = {"seg": torch.zeros(3, 4, 4), "cls_lung": torch.zeros(2)}
    assert SplitPredictiond()({"pred": dict(pred)})["probabilities"]["lung"].tolist() == [0.5, 0.5]
    pred[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"must give finite numbers, got NaN or infinity in {name}; use other weights"):
        SplitPredictiond()({"pred": pred})


def test_areas_are_counted_in_pixels_and_square_millimeters() -> None:
    result = describe()
    assert result["spacing_mm"] == {"row": 0.5, "column": 0.25}
    assert result["areas"] == {
        "lesion": {"pixels": 3, "mm2": 0.375},  # 3 * 0.5 * 0.25
        "nerve": {"pixels": 1, "mm2": 0.125},
    }


def test_an_absent_structure_has_no_area() -> None:
    areas = describe(pred=MetaTensor(torch.zeros(1, 3, 5, dtype=torch.uint8)))["areas"]
    assert areas == {"lesion": {"pixels": 0, "mm2": 0.0}, "nerve": {"pixels": 0, "mm2": 0.0}}


@pytest.mark.parametrize("spacing", [[float("nan")] * 2, torch.tensor([0.5, float("nan")])])
def test_without_a_spacing_there_are_no_millimeters(spacing: Any) -> None:
    result = describe(spacing=spacing)
    assert result["spacing_mm"] == {"row": None, "column": None}
    assert result["areas"] == {"lesion": {"pixels": 3, "mm2": None}, "nerve": {"pixels": 1, "mm2": None}}


BREAST = {"predicted": "malignant", "probabilities": {"normal": 0.125, "benign": 0.25, "malignant": 0.625}}
LUNG = {"predicted": "healthy", "probabilities": {"healthy": 0.75, "pneumonia": 0.25}}


@pytest.mark.parametrize(
    ("position", "classes"),
    [
        ("breast", {"breast": BREAST}),
        ("lung", {"lung": LUNG}),
        ("unknown", {"breast": BREAST, "lung": LUNG}),
        ("indis", {"breast": BREAST, "lung": LUNG}),
        ("", {"breast": BREAST, "lung": LUNG}),
        (None, {"breast": BREAST, "lung": LUNG}),
        ("thyroid", {}),
    ],
)
def test_classes_are_those_of_the_position(position: str | None, classes: dict[str, Any]) -> None:
    assert describe(position=position)["classes"] == classes


def test_prompts_say_what_was_asked() -> None:
    assert describe(position="breast", nature="tumor", task=None)["prompts"] == {
        "position": "breast",
        "nature": "tumor",
        "task": "unknown",
    }


def test_prediction_lists_the_classes_for_clients() -> None:
    assert describe(position="lung")["prediction"] == [
        {"idx": 0, "label": "lung: healthy", "score": 0.75},
        {"idx": 1, "label": "lung: pneumonia", "score": 0.25},
    ]
    assert describe(position="thyroid")["prediction"] == []


@pytest.mark.parametrize("position", ["unknown", "indis", "", None])
def test_without_a_position_no_class_of_an_organ_is_predicted(position: str | None) -> None:
    """Clients take the first entry or the highest score for the finding: of five organs in the image of one."""
    assert describe(position=position)["prediction"] == [{"idx": 0, "label": "position unknown", "score": 0.0}]


def boxed(slot: int, *, box: Any = (0, 0, 1, 1), wanted: int = 0, counted: int = 0) -> str:
    said = {"wanted": [(0, 0)] * wanted, "unwanted": [], "box": box, "mask": None}
    image = MetaTensor(torch.zeros(3, 4, 4), meta={"notes": "read"})
    clicks = {slot: {"wanted": counted, "unwanted": 0}}
    return str(describe(image=image, guidance={slot: said}, clicks=clicks)["notes"])


def test_notes_say_what_of_the_guidance_found_nothing() -> None:
    assert boxed(2) == boxed(0) == boxed(1, box=None, wanted=2, counted=2) == "read"  # the map has both structures
    nothing = MetaTensor(torch.zeros(1, 3, 5, dtype=torch.uint8))
    said = {"wanted": [(0, 0)] * 3, "unwanted": [], "box": (0, 0, 1, 1), "mask": None}
    for slot, name in ((0, "unnamed"), (2, "nerve")):
        clicks = {slot: {"wanted": 1, "unwanted": 0}}
        image = MetaTensor(torch.zeros(3, 4, 4), meta={"notes": ""})
        result = describe(pred=nothing, image=image, guidance={slot: said}, clicks=clicks)
        assert result["notes"] == (
            f"{name}: 2 of 3 clicks lie outside the image or the box; {name}: nothing was found in the box"
        )


def test_clicks_are_named() -> None:
    assert "clicks" not in describe()
    clicks = {0: {"wanted": 1, "unwanted": 0}, 2: {"wanted": 2, "unwanted": 3}}
    assert describe(clicks=clicks)["clicks"] == {
        "unnamed": {"wanted": 1, "unwanted": 0},
        "nerve": {"wanted": 2, "unwanted": 3},
    }


def test_the_result_goes_into_a_json() -> None:
    result = describe(clicks={1: {"wanted": 1, "unwanted": 0}})
    assert json.loads(json.dumps(result)) == result


def test_probabilities_are_passed_over() -> None:
    item = predicted(pred=MetaTensor(torch.rand(3, 3, 5)))
    described = DescribePredictiond(STRUCTURES, LABEL_SETS)(item)
    assert "result" not in described
    assert described["pred"] is item["pred"]
    study = ToStudyd()(item)
    assert study["pred"] is item["pred"]
    assert study.keys() == item.keys()


def save(path: Path, *, orientation: int = 1) -> Path:
    """An image of 3 x 5 pixels; one with a third axis and an oblique geometry where the format has them."""
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    if path.name.endswith(".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(pixels.T[..., None].copy(), AFFINE), path)
    elif path.suffix == ".nii":
        nibabel.save(nibabel.Nifti1Image(pixels.T.copy(), AFFINE), path)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
    return path


AFFINE = np.array([[0, -0.5, 0, 10], [0.25, 0, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]], float)
PIXELS = np.diag([-1.0, -1, 1, 1])  # of a picture: to the left and posterior
STUDIES: dict[str, tuple[tuple[int, ...], np.ndarray]] = {
    "a.png": ((5, 3), PIXELS),
    "a.nii": ((5, 3, 1), AFFINE),  # of two axes: MONAI Label would lose its geometry
    "a.nii.gz": ((5, 3, 1), AFFINE),
}


def to_study(path: Path, **item: Any) -> dict[str, Any]:
    loaded = LoadUltrasoundd("image")({"image": str(path)})["image"]
    pred = MetaTensor(torch.from_numpy(MASK)[None].clone())
    return ToStudyd()({"image": loaded, "pred": pred, "image_path": str(path), **item})


@pytest.mark.parametrize("name", STUDIES)
def test_the_label_map_takes_the_axes_and_the_place_of_the_study(tmp_path: Path, name: str) -> None:
    shape, affine = STUDIES[name]
    item = to_study(save(tmp_path / name))
    pred = item["pred"]
    assert pred.shape == shape
    assert pred.dtype == torch.uint8
    assert pred.is_contiguous()
    assert np.array_equal(pred.numpy().reshape(5, 3), MASK.T)
    assert np.allclose(pred.affine.numpy(), affine)
    assert tuple(item["image"].meta["spatial_shape"]) == shape
    assert "result_extension" not in item


@pytest.mark.parametrize(("name", "suffix", "shape"), [("a.png", ".nrrd", (5, 3, 1)), ("a.nii.gz", ".png", (5, 3))])
def test_a_volume_has_three_axes_and_a_picture_two(
    tmp_path: Path, name: str, suffix: str, shape: tuple[int, ...]
) -> None:
    item = to_study(save(tmp_path / name), result_extension=suffix)
    assert tuple(item["image"].meta["spatial_shape"]) == item["pred"].shape == shape
    assert np.allclose(item["pred"].affine.numpy(), STUDIES[name][1])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_a_jpeg_study_gets_a_lossless_result(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}")
    assert to_study(path)["result_extension"] == ".png"
    assert to_study(path, result_extension=None)["result_extension"] == ".png"
    assert to_study(path, result_extension=".nii.gz")["result_extension"] == ".nii.gz"


def test_a_turned_study_is_refused_where_a_client_shows_it_unturned(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", orientation=6)
    with pytest.raises(
        ValueError,
        match=r"a\.jpg: image must be stored upright, got one with a JPEG orientation mark.*; save it turned",
    ):
        to_study(path)
    loaded = LoadUltrasoundd("image")({"image": str(path)})["image"]
    assert loaded.shape == (3, 5, 3)
    item = ToStudyd()({"image": loaded, "pred": MetaTensor(torch.from_numpy(MASK.T.copy())[None])})
    assert np.array_equal(item["pred"].numpy(), MASK)  # of the turned image


def test_a_turned_study_keeps_its_probabilities(tmp_path: Path) -> None:
    probabilities = MetaTensor(torch.rand(3, 5, 3))
    assert to_study(save(tmp_path / "a.jpg", orientation=6), pred=probabilities)["pred"] is probabilities


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_mark_that_turns_nothing_is_no_turn(tmp_path: Path, orientation: int) -> None:
    """Cameras and scanners also write 0 for unknown."""
    assert to_study(save(tmp_path / "a.jpg", orientation=orientation))["pred"].shape == (5, 3)


@pytest.mark.parametrize("size", [(50, 33), (7, 64), (20, 20)])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 8.0])
def test_the_label_map_is_the_most_probable_structure_of_all(size: tuple[int, int], sharpness: float) -> None:
    preprocessing = Compose([Letterboxd("image", 20)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, *size))})
    torch.manual_seed(0)
    probabilities = (sharpness * torch.randn(6, 20, 20)).softmax(0)
    probabilities[3] = 0  # never the most probable one
    invert = Invertd("pred", preprocessing, "image", nearest_interp=False)
    inverted = invert({**item, "pred": MetaTensor(probabilities)})["pred"].as_tensor()
    for _ in range(2):  # the image's history outlives the call
        found = ToLabelMapd("pred", preprocessing)({**item, "pred": probabilities})["pred"]
    assert found.shape == (1, *size)
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found.affine, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(inverted.gather(0, found.as_tensor().long())[0], inverted.amax(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [[], [Resized("image", 4)], [Flipd("image"), Letterboxd("image", 4)]])
def test_pixels_that_move_otherwise_are_refused(steps: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"one Letterboxd and no other transform to be undone, got \["):
        ToLabelMapd("pred", Compose(steps))


def test_what_leads_in_the_border_alone_is_nowhere() -> None:
    preprocessing = Compose([Letterboxd("image", 8)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, 4, 8))})
    pred = torch.zeros(3, 8, 8)
    pred[0], pred[1, 0], pred[2, 2, 7] = 0.5, 0.9, 0.9
    found = ToLabelMapd("pred", preprocessing)({**item, "pred": pred})["pred"][0]
    assert found.tolist() == [[0] * 7 + [2], *[[0] * 8] * 3]


def test_of_equal_structures_the_first_is_taken() -> None:
    preprocessing = Compose([Letterboxd("image", 4)])
    item = preprocessing({"image": MetaTensor(torch.rand(3, 4, 4))})
    for weights, expected in (([0.25] * 4, 0), ([0.1, 0.1, 0.4, 0.4], 2)):
        pred = MetaTensor(torch.tensor(weights)[:, None, None].expand(4, 4, 4).clone())
        assert ToLabelMapd("pred", preprocessing)({**item, "pred": pred})["pred"].unique().tolist() == [expected]
