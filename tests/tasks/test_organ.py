# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from bundle.geometry import Geometry
from bundle.tasks import Asked, Masks, Organ, Records, Widths, class_tasks
from bundle.tasks.decoding import decoded
from bundle.vocabulary import Organs

ORGANS = Organs({
    "breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]},
    "head": {"structures": ["head"]},
    "indis": {},
    "lung": {"classes": ["healthy", "sick"]},
})  # fmt: skip
PLACE = Geometry((32, 32), 32)


def test_names_are_the_organs_and_none() -> None:
    assert Organ(ORGANS).names == ["breast", "head", "lung", "none"]


@pytest.mark.parametrize(
    ("item", "index"),
    [
        ({"position": "head"}, 1),
        ({"position": "unknown"}, -1),
        ({"position": "indis"}, -1),
        ({"position": "unknown", "organ": "none"}, 3),
        ({"position": "head", "organ": "lung"}, 2),
        ({"position": "head", "organ": None}, 1),
    ],
)
def test_target(item: dict[str, Any], index: int) -> None:
    assert int(Organ(ORGANS).target(item)) == index


@pytest.mark.parametrize(("said", "organ"), [("Breast", "breast"), ("NONE", "none"), (None, None)])
def test_organs_of_items_join_by_name(said: str | None, organ: str | None) -> None:
    assert Organ(ORGANS).read({"organ": said, "labeled": [False]}, where="m item 0")["organ"] == organ


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"organ": "nonee"},
            r"m item 0, key 'organ': expected one of \['breast', 'head', 'lung', 'none'\], got 'nonee'",
        ),
        ({"organ": "unknown"}, "got 'unknown'"),
        ({"organ": "none", "labeled": [True, False]}, "expected an organ .* beside a mask or class of it, got 'none'"),
        ({"organ": "none", "classes": {"lung": 0}}, "beside a mask or class"),
    ],
)
def test_organs_that_cannot_be_are_refused(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Organ(ORGANS).read(item, where="m item 0")


def test_only_images_that_say_so_are_drawn_for_their_organ() -> None:
    assert [Organ(ORGANS).has({"position": "head", "organ": organ}) for organ in (None, "none")] == [False, True]


def test_the_head_does_not_see_the_prompt() -> None:
    head = Organ(ORGANS).build(Widths(fine=4, feature=6))
    plain = torch.randn(2, 6)
    one, other = (head(torch.zeros(2, 4, 8, 8), torch.randn(2, 6), plain) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, head(torch.zeros(2, 4, 8, 8), plain, plain + 1))


def values(organ: list[float]) -> dict[str, torch.Tensor]:
    seg = torch.zeros(3, 32, 32)
    seg[1, 4:10, 4:10], seg[2, 20:26, 20:26] = 4.0, 5.0
    return {
        "seg": seg.softmax(0),
        "cls_breast": torch.tensor([0.2, 0.8]),
        "cls_lung": torch.tensor([0.9, 0.1]),
        "organ": torch.tensor(organ),
    }


def answers(organ: list[float], asked: Asked, **options: Any) -> dict[str, Any]:
    tasks = [Masks(ORGANS), *class_tasks(ORGANS), Organ(ORGANS, **options)]
    found = decoded(tasks, [values(organ)], [PLACE], asked)
    return {
        "shown": sorted(set(found["seg"].label_map.flatten().tolist()) - {0}),
        "classes": [name for task in tasks[1:3] for name in task.record(found[task.name], PLACE)["classes"]],
    }


@pytest.mark.parametrize(
    ("organ", "shown", "classes"),
    [
        ([0.7, 0.1, 0.1, 0.1], [1], ["breast"]),
        ([0.1, 0.7, 0.1, 0.1], [2], []),
        ([0.1, 0.1, 0.7, 0.1], [], ["lung"]),
        ([0.1, 0.1, 0.1, 0.7], [], []),
    ],
)
def test_without_a_prompt_it_routes(organ: list[float], shown: list[int], classes: list[str]) -> None:
    assert answers(organ, Asked()) == {"shown": shown, "classes": classes}
    assert answers(organ, Asked("indis")) == {"shown": shown, "classes": classes}


def test_what_a_user_says_goes_before() -> None:
    none = [0.0, 0.0, 0.0, 1.0]
    prompted = answers(none, Asked("breast"))
    assert prompted["classes"] == ["breast"]
    assert prompted["shown"] == [1, 2]  # restricting is the prompt's part, in the inferer
    guided = {1: {"wanted": [(6, 6)], "unwanted": [], "box": None, "mask": None}}
    assert answers(none, Asked(guidance=guided, clicks={1: {"wanted": 1, "unwanted": 0}}))["shown"] == [1, 2]
    outside = {1: {**guided[1], "wanted": [(5000, 6)]}}
    assert answers(none, Asked(guidance=outside, clicks={1: {"wanted": 0, "unwanted": 0}}))["shown"] == []
    assert answers(none, Asked(), route=False) == {"shown": [1, 2], "classes": ["breast", "lung"]}


def test_organs_that_weights_do_not_know_are_left_out() -> None:
    task = Organ(ORGANS)
    task.keep(["lung", "breast"])
    assert task.decode({"organ": torch.tensor([0.75, 0.25])}, PLACE, Asked()) == {"lung": 0.75, "breast": 0.25}
    assert [int(task.target({"position": position})) for position in ("breast", "head")] == [1, -1]
    assert task.notes({"lung": 0.75, "breast": 0.25}, Asked("head")) == []  # it cannot tell
    task.keep(["other"])  # loading says what is wrong
    assert task.names == ["lung", "breast"]


@pytest.mark.parametrize(
    ("organ", "position", "notes"),
    [
        ([0.0, 0.006, 0.994, 0.0], "breast", ["position is breast, but the image looks like lung (0.99)"]),
        ([0.1, 0.1, 0.1, 0.7], "lung", ["position is lung, but the image looks like none of the organs (0.70)"]),
        ([0.3, 0.4, 0.2, 0.1], "breast", []),
        ([0.1, 0.9, 0.0, 0.0], "head", []),
        ([0.1, 0.9, 0.0, 0.0], "unknown", []),
    ],
)
def test_a_note_says_that_the_image_looks_like_another_organ(
    organ: list[float], position: str, notes: list[str]
) -> None:
    tasks, asked = [Masks(ORGANS), Organ(ORGANS)], Asked(position)
    found = decoded(tasks, [values(organ)], [PLACE], asked)
    assert Organ(ORGANS).notes(found["organ"], asked) == notes
    item = {"found": found, "geometry": PLACE, "asked": asked}
    assert Records(tasks).result(item)["notes"] == "; ".join(notes)  # a frame of a film has no image
    assert Records(tasks).result({**item, "withheld": True})["notes"] == ""


def test_record_rows_and_scores() -> None:
    task = Organ(ORGANS)
    found = task.decode(values([0.1, 0.2, 0.3, 0.4]), PLACE, Asked())
    assert task.record(found, PLACE)["organ"]["predicted"] == "none"
    assert task.record(None, PLACE)["organ"]["predicted"] is None
    assert task.scores_for_clients(found) == [("organ: none", 0.4)]
    image = MetaTensor(torch.zeros(3, 8, 8), meta={"filename_or_obj": "a.png"})
    rows = [
        row
        for index in (2, 3, -1)
        for row in task.rows(found, {"image": image, "targets": {"organ": torch.tensor(index)}})
    ]
    assert [(row["truth"], row["correct"]) for row in rows] == [("lung", False), ("none", True)]
    assert task.scores(rows) == {"organ": {"accuracy": 0.5}}
    (entry,) = task.summary(rows, resamples=10, seed=0)
    assert entry["classes"] == ["lung", "none"]
    assert entry["accuracy"]["value"] == 0.5


def test_none_is_no_organ_of_the_table() -> None:
    with pytest.raises(ValueError, match="organs must not name one 'none'"):
        Organs({"none": {}, "indis": {}})
