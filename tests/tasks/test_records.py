# SPDX-License-Identifier: Apache-2.0
"""From what was found to the user's record."""

import json
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from bundle.geometry import Geometry
from bundle.tasks import Asked, Masks, Records, class_tasks
from bundle.tasks.masks import FoundMasks
from bundle.vocabulary import UNKNOWN, Organs

ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"], "classes": ["normal", "benign", "malignant"]},
        "limb": {"structures": ["nerve"]},
        "lung": {"classes": ["healthy", "pneumonia"]},
        "thyroid": {},
        "indis": {},
    }
)
TASKS = [Masks(ORGANS), *class_tasks(ORGANS)]
# 3 rows, 5 columns
MASK = torch.tensor([[0, 1, 1, 0, 2], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.uint8)
VALUES = {"cls_breast": torch.tensor([0.125, 0.25, 0.625]), "cls_lung": torch.tensor([0.75, 0.25])}


def predicted(*, spacing: tuple[float, float] = (0.5, 0.25), mask: torch.Tensor = MASK, **item: Any) -> dict[str, Any]:
    """An item after the network, as ``Decoded`` gives it."""
    place = Geometry((3, 5), 8, spacing, "header")
    position = str(item.get("position") or UNKNOWN)
    asked = Asked(position, item.get("guidance") or {}, item.get("clicks") or {})
    classes = {task.name: task.decode(VALUES, place, asked) for task in TASKS[1:]}
    found = {"seg": FoundMasks(mask), **classes}
    pred = MetaTensor(mask[None].clone())
    return {"position": "unknown", "found": found, "geometry": place, "asked": asked, "pred": pred, **item}


def described(**item: Any) -> dict[str, Any]:
    result: dict[str, Any] = Records(TASKS)(predicted(**item))["result"]
    return result


def test_areas_are_counted_in_pixels_and_square_millimeters() -> None:
    result = described()
    assert result["spacing_mm"] == {"row": 0.5, "column": 0.25, "source": "header"}
    assert result["areas"] == {
        "lesion": {"pixels": 3, "mm2": 0.375},  # 3 * 0.5 * 0.25
        "nerve": {"pixels": 1, "mm2": 0.125},
    }


def test_an_absent_structure_has_no_area() -> None:
    areas = described(mask=torch.zeros_like(MASK))["areas"]
    assert areas == {"lesion": {"pixels": 0, "mm2": 0.0}, "nerve": {"pixels": 0, "mm2": 0.0}}


@pytest.mark.parametrize("spacing", [(float("nan"),) * 2, (0.5, float("nan"))])
def test_without_a_spacing_there_are_no_millimeters(spacing: Any) -> None:
    result = described(spacing=spacing)
    assert result["spacing_mm"] == {"row": None, "column": None, "source": None}
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
    assert described(position=position)["classes"] == classes


def test_prompts_say_what_was_asked() -> None:
    assert described(position="breast", nature="tumor", task=None)["prompts"] == {
        "position": "breast",
        "nature": "tumor",
        "task": "unknown",
    }


def test_prediction_lists_the_classes_for_clients() -> None:
    assert described(position="lung")["prediction"] == [
        {"idx": 0, "label": "lung: healthy", "score": 0.75},
        {"idx": 1, "label": "lung: pneumonia", "score": 0.25},
    ]
    assert described(position="thyroid")["prediction"] == []


@pytest.mark.parametrize("position", ["unknown", "indis", "", None])
def test_without_a_position_no_class_of_an_organ_is_predicted(position: str | None) -> None:
    """Clients take the first entry or the highest score for the finding: of five organs in the image of one."""
    assert described(position=position)["prediction"] == [{"idx": 0, "label": "position unknown", "score": 0.0}]


def boxed(slot: int, *, box: Any = (0, 0, 1, 1), wanted: int = 0, counted: int = 0) -> str:
    said = {"wanted": [(0, 0)] * wanted, "unwanted": [], "box": box, "mask": None}
    image = MetaTensor(torch.zeros(3, 4, 4), meta={"notes": "read"})
    clicks = {slot: {"wanted": counted, "unwanted": 0}}
    return str(described(image=image, guidance={slot: said}, clicks=clicks)["notes"])


def test_notes_say_what_of_the_guidance_found_nothing() -> None:
    assert boxed(2) == boxed(0) == boxed(1, box=None, wanted=2, counted=2) == "read"  # the map has both structures
    said = {"wanted": [(0, 0)] * 3, "unwanted": [], "box": (0, 0, 1, 1), "mask": None}
    for slot, name in ((0, "unnamed"), (2, "nerve")):
        clicks = {slot: {"wanted": 1, "unwanted": 0}}
        image = MetaTensor(torch.zeros(3, 4, 4), meta={"notes": ""})
        result = described(mask=torch.zeros_like(MASK), image=image, guidance={slot: said}, clicks=clicks)
        assert result["notes"] == (
            f"{name}: 2 of 3 clicks lie outside the image or the box; {name}: nothing was found in the box"
        )


def test_clicks_are_named() -> None:
    assert "clicks" not in described()
    clicks = {0: {"wanted": 1, "unwanted": 0}, 2: {"wanted": 2, "unwanted": 3}}
    assert described(clicks=clicks)["clicks"] == {
        "unnamed": {"wanted": 1, "unwanted": 0},
        "nerve": {"wanted": 2, "unwanted": 3},
    }


def test_the_result_goes_into_a_json() -> None:
    result = described(clicks={1: {"wanted": 1, "unwanted": 0}})
    assert json.loads(json.dumps(result)) == result


def test_a_withheld_image_has_no_answers() -> None:
    image = MetaTensor(torch.zeros(3, 4, 4), meta={"notes": "does not look like ultrasound"})
    item = Records(TASKS)(predicted(image=image, withheld=True, position="breast"))
    assert not item["pred"].any()
    assert not item["found"]["seg"].label_map.any()
    assert item["result"]["areas"] == {name: {"pixels": None, "mm2": None} for name in ("lesion", "nerve")}
    assert (item["result"]["classes"], item["result"]["prediction"]) == ({}, [])
    assert item["result"]["notes"] == "does not look like ultrasound"


def test_where_answers_were_not_decoded_the_masks_probabilities_are_left() -> None:
    """MONAI Label's scoring leaves out that step."""
    logits = torch.tensor([0.0, 1.0, 0.0]).log1p().reshape(3, 1, 1)
    item = Records(TASKS)({"pred": {"seg": logits, "cls_lung": torch.zeros(2)}, "position": "unknown"})
    assert item["pred"].flatten().tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert "result" not in item


def test_every_result_has_keys_of_the_complete_one() -> None:
    """The columns of the tables come from there."""
    records = Records(TASKS)
    complete, empty = records.complete, records.empty({"position": "lung"})
    assert complete["areas"] == {name: {"pixels": None, "mm2": None} for name in ("lesion", "nerve")}
    assert complete["classes"]["lung"] == {"predicted": None, "probabilities": {"healthy": None, "pneumonia": None}}
    assert set(described(position="lung")) == {*complete, "prediction"}
    assert set(empty) == set(complete)
    assert empty["prompts"] == {"position": "lung", "nature": "unknown", "task": "unknown"}
    assert empty["classes"] == {}


def test_the_legend_explains_values_and_classes() -> None:
    legend = Records(TASKS).legend
    assert [(entry["value"], entry["name"]) for entry in legend["structures"]] == [
        (0, "background"),
        (1, "lesion"),
        (2, "nerve"),
    ]
    assert legend["label_sets"] == ORGANS.label_sets
