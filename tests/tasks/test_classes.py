# SPDX-License-Identifier: Apache-2.0
"""One class of a label set: what is trained, and what is recorded for which organ."""

import math

import pytest
import torch

from bundle.geometry import Geometry
from bundle.tasks import Asked, class_tasks
from bundle.vocabulary import Organs

ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"], "classes": ["normal", "benign", "malignant"]},
        "lung": {"classes": ["healthy", "sick"]},
        "head": {"structures": ["head"]},
        "indis": {},
    }
)
PLACE = Geometry((4, 4), 8)


def test_there_is_a_task_for_each_label_set() -> None:
    assert [(task.name, task.classes) for task in class_tasks(ORGANS)] == [
        ("cls_breast", ["normal", "benign", "malignant"]),
        ("cls_lung", ["healthy", "sick"]),
    ]


def test_items_without_a_class_are_not_labeled() -> None:
    breast, lung = class_tasks(ORGANS)
    target = torch.stack([breast.target({"classes": {"breast": 2}}), breast.target({"classes": {}}), breast.target({})])
    assert target.tolist() == [2, -1, -1]
    assert breast.labeled(target).tolist() == [True, False, False]
    assert not lung.has({"classes": {"breast": 2}})
    assert breast.without(target).tolist() == [-1, -1, -1]


def test_uniform_logits_cost_their_logarithm_and_weights_scale_a_class() -> None:
    plain, weighted = class_tasks(ORGANS)[0], class_tasks(ORGANS, class_weights={"breast": [1, 1, 4]})[0]
    target = torch.tensor([2, 0])
    assert plain.loss(torch.zeros(2, 3), target).item() == pytest.approx(2 * math.log(3))
    assert weighted.loss(torch.zeros(2, 3), target).item() == pytest.approx(5 * math.log(3))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"breast": [1.0]},
            r"class_weights of 'breast' must be 3 numbers, one per class .*, got \[1\.0\]",
        ),
        ({"heart": [1.0, 1.0]}, r"class_weights must name label sets \['breast', 'lung'\], got \['heart'\]"),
    ],
)
def test_wrong_class_weights_are_refused(weights: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_tasks(ORGANS, class_weights=weights)


@pytest.mark.parametrize(
    ("position", "shown", "listed"),
    [("breast", True, 3), ("lung", False, 0), ("head", False, 0), ("unknown", True, 0), ("indis", True, 0)],
)
def test_only_classes_of_the_asked_organ_are_recorded(position: str, shown: bool, listed: int) -> None:
    """Clients take the highest score for the finding, so that none is listed without a position."""
    breast = class_tasks(ORGANS)[0]
    found = breast.decode({"cls_breast": torch.tensor([0.25, 0.125, 0.625])}, PLACE, Asked(position))
    values = {"normal": 0.25, "benign": 0.125, "malignant": 0.625}
    classes = {"breast": {"predicted": "malignant", "probabilities": values}} if shown else {}
    assert breast.record(found, PLACE) == {"classes": classes}
    assert breast.captions(found) == ([("breast: malignant 0.62", 0)] if shown else [])
    assert len(breast.scores_for_clients(found)) == listed


def test_probabilities_have_six_digits() -> None:
    breast = class_tasks(ORGANS)[0]
    found = breast.decode({"cls_breast": breast.activate(torch.tensor([0.0, 1.0, -1.0]))}, PLACE, Asked("breast"))
    recorded = breast.record(found, PLACE)["classes"]["breast"]
    # exp(0), e and 1 / e over their sum 4.086161
    assert recorded == {
        "predicted": "benign",
        "probabilities": {"normal": 0.244728, "benign": 0.665241, "malignant": 0.090031},
    }


def test_an_image_without_an_answer_has_no_class_and_all_columns() -> None:
    breast = class_tasks(ORGANS)[0]
    assert breast.record(None, PLACE) == {"classes": {}}
    probabilities = {"normal": None, "benign": None, "malignant": None}
    assert breast.blank() == {"classes": {"breast": {"predicted": None, "probabilities": probabilities}}}
