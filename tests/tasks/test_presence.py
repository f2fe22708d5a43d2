# SPDX-License-Identifier: Apache-2.0
import math
import re
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from bundle.geometry import Geometry
from bundle.tasks import Asked, Masks, Presence
from bundle.vocabulary import Organs

ORGANS = Organs({
    "breast": {"structures": ["lesion"], "classes": ["normal", "benign"]},
    "limb": {"structures": ["nerve", "vessel"]},
    "indis": {},
})  # fmt: skip
TASK = Presence(ORGANS, absent_classes={"breast": {"normal": ["lesion"]}})
PLACE = Geometry((32, 32), 32)


def item(labeled: list[bool], classes: dict[str, int], values: list[int] = []) -> dict[str, Any]:  # noqa: B006
    label = torch.zeros(1, 8, 8)
    for place, value in enumerate(values):
        label[0, place] = value
    return {"label": label, "labeled": labeled, "classes": classes}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (item([True, False, True, True], {}, [2]), [math.nan, 1, 0]),
        (item([True, True, False, False], {}), [0, math.nan, math.nan]),
        (item([False] * 4, {"breast": 0}), [0, math.nan, math.nan]),
        (item([False] * 4, {"breast": 1}), [math.nan] * 3),  # it may have a lesion in another image
        (item([True, True, False, False], {"breast": 0}, [1]), [1, math.nan, math.nan]),  # the mask goes before
    ],
)
def test_target_is_told_by_masks_and_classes(given: dict[str, Any], expected: list[float]) -> None:
    target = TASK.target(given)
    torch.testing.assert_close(target, torch.tensor(expected, dtype=torch.float32), equal_nan=True)
    known = any(not math.isnan(value) for value in expected)
    assert bool(TASK.labeled(target[None])[0]) == known == TASK.has(given)


def test_loss_is_the_mean_over_what_is_known() -> None:
    logits = torch.tensor([[0.0, 2.0, 9.0], [1.0, 0.0, 0.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, math.nan], [math.nan, math.nan, 1.0]])
    expected = (math.log(2) + math.log(1 + math.e**2)) / 2 + math.log(2)
    loss = TASK.loss(logits, target)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == logits.grad[1, 0] == 0


def test_decode_and_record_are_of_the_organ_in_sight() -> None:
    values = {"presence": torch.tensor([0.25, 0.5, 0.75])}
    assert TASK.decode(values, PLACE, Asked("limb")) == {"nerve": 0.5, "vessel": 0.75}
    found = TASK.decode(values, PLACE, Asked("breast", routed=True))
    assert TASK.record(found, PLACE) == {"presence": {"lesion": 0.25, "nerve": None, "vessel": None}}
    assert TASK.record(None, PLACE) == TASK.blank() == {"presence": dict.fromkeys(["lesion", "nerve", "vessel"])}
    assert TASK.decode(values, PLACE, Asked("none", routed=True)) == {}


def test_structures_that_weights_do_not_know_have_no_probability() -> None:
    task = Presence(ORGANS)
    task.keep(["lesion", "vessel"])
    values = {"presence": task.activate(torch.zeros(2))}
    assert task.decode(values, PLACE, Asked()) == {"lesion": 0.5, "vessel": 0.5}
    assert task.target(item([True, True, True, True], {}, [3])).tolist() == [0, 1]
    task.keep(["other"])  # loading says what is wrong
    assert task.names == ["lesion", "vessel"]
    masks = Masks(ORGANS, gate={"nerve": 0.9})
    found = masks.decode({**values, "seg": torch.eye(4)[2][:, None, None].expand(4, 32, 32)}, PLACE, Asked())
    assert found.label_map.unique().tolist() == [2]  # a gate needs a probability


def mask_values(presence: list[float]) -> dict[str, torch.Tensor]:
    seg = torch.zeros(4, 32, 32)
    seg[1, 4:10, 4:10], seg[3, 20:26, 20:26] = 4.0, 5.0
    return {"seg": seg.softmax(0), "presence": torch.tensor(presence)}


def shown(masks: Masks, presence: list[float], asked: Asked) -> list[int]:
    label_map = masks.decode(mask_values(presence), PLACE, asked).label_map
    return sorted(set(label_map.flatten().tolist()) - {0})


def test_a_gate_leaves_out_what_is_not_there() -> None:
    masks = Masks(ORGANS, gate={"lesion": 0.5})
    assert shown(masks, [0.6, 0.0, 0.0], Asked()) == [1, 3]
    assert shown(masks, [0.4, 0.0, 0.0], Asked()) == [3]  # the vessel has no gate
    assert shown(Masks(ORGANS), [0.4, 0.0, 0.0], Asked()) == [1, 3]


@pytest.mark.parametrize(("slot", "expected"), [(1, [1, 3]), (0, [1, 3]), (3, [3])])
def test_what_a_user_guides_passes_the_gate(slot: int, expected: list[int]) -> None:
    said = {"wanted": [(22, 22) if slot == 3 else (6, 6)], "unwanted": [], "box": None, "mask": None}
    asked = Asked(guidance={slot: said}, clicks={slot: {"wanted": 1, "unwanted": 0}})
    assert shown(Masks(ORGANS, gate={"lesion": 0.5}), [0.4, 0.0, 0.0], asked) == expected
    outside = Asked(guidance={slot: {**said, "wanted": [(5000, 6)]}}, clicks={slot: {"wanted": 0, "unwanted": 0}})
    assert shown(Masks(ORGANS, gate={"lesion": 0.5}), [0.4, 0.0, 0.0], outside) == [3]


@pytest.mark.parametrize(
    "gate",
    [
        0.5, 0, False, "lesion", "", [], ["lesion"], {"lesion": 1.5}, {"lesion": -1}, {"lesion": math.nan},
        {"lesion": math.inf}, {"lesion": 10**400}, {"lesion": "x"}, {"lesion": "0.5"}, {"lesion": True},
        {"lesion": None}, {"lesion": [0.5]}, {"lesion": 0.5, "head": 0.5}, {"head": 0.5, 1: 0.5},
        {"background": 0.5}, {None: 0.5}, {"lesion": 0.5, "vessel": 2},
    ],
    ids=lambda gate: str(gate)[:30],
)  # fmt: skip
def test_a_gate_that_cannot_be_is_refused(gate: Any) -> None:
    expected = "gate must be a table of structures (lesion, nerve, vessel) and numbers from 0 to 1, or none, got "
    with pytest.raises(ValueError, match=rf"^{re.escape(expected)}[^\n]+; correct --gate\.$") as error:
        Masks(ORGANS, gate=gate)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("gate", [None, {}, {"lesion": 0, "nerve": 1, "vessel": 0.5}], ids=str)
def test_a_gate_that_can_be_is_taken(gate: Any) -> None:
    assert Masks(ORGANS, gate=gate).gate == {ORGANS.structures.index(name): n for name, n in (gate or {}).items()}


def test_what_is_gated_becomes_background_in_mask_and_maps() -> None:
    masks = Masks(ORGANS, gate={"lesion": 0.5}, maps=True)
    seg = torch.zeros(4, 32, 32)
    seg[:, :16] = torch.tensor([0.1, 0.6, 0.1, 0.2])[:, None, None]  # without the lesion the vessel would come next
    seg[:, 16:] = torch.tensor([0.1, 0.2, 0.0, 0.7])[:, None, None]
    values = {"seg": seg, "presence": torch.tensor([0.4, 0.0, 0.0])}
    for _ in range(2):  # the values stay
        found = masks.decode(values, PLACE, Asked())
        assert found.label_map[::16, 0].tolist() == [0, 3]
        assert found.maps is not None
        torch.testing.assert_close(found.maps()[:, ::16, 0].T, torch.tensor([[0.7, 0, 0.1, 0.2], [0.3, 0, 0, 0.7]]))


def test_rows_scores_and_table() -> None:
    image = MetaTensor(torch.zeros(3, 8, 8), meta={"filename_or_obj": "a.png"})
    rows = []
    for truth, probability in ((1.0, 0.9), (1.0, 0.4), (0.0, 0.6), (0.0, 0.1)):
        targets = {"presence": torch.tensor([truth, math.nan, math.nan])}
        rows += TASK.rows({"lesion": probability}, {"image": image, "targets": targets, "dataset": "D"})
    assert [row["truth"] for row in rows] == [True, True, False, False]
    assert TASK.scores(rows) == {"presence": {"D_lesion": 0.75}}
    lines = TASK.tables(TASK.summary(rows, resamples=10, seed=0))
    assert lines[2] == "| D | lesion | 4 | 0.750 | 0.500 | 0.500 |"


def test_classes_of_another_table_tell_nothing() -> None:
    organs = Organs({"breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]}, "indis": {}})
    task = Presence(organs, absent_classes={"breast": {"normal": ["lesion"], "benign": ["nerve"]}, "lung": {"a": []}})
    assert task.absent == {}
