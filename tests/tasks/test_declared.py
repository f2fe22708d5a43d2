# SPDX-License-Identifier: Apache-2.0
"""The tasks of a config's blocks."""

import pytest

from bundle.tasks import Masks, class_tasks, declare
from bundle.vocabulary import Organs

ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]},
        "lung": {"classes": ["healthy", "sick"]},
        "indis": {},
    }
)


def names(*args: object, **options: object) -> list[str]:
    return [task.name for task in declare(*args, **options)]  # type: ignore[arg-type]


def test_blocks_hold_a_task_or_several_or_none() -> None:
    blocks = {"seg": Masks(ORGANS), "off": None, "classes": class_tasks(ORGANS)}
    assert names(blocks) == ["seg", "cls_breast", "cls_lung"]
    assert names(blocks, held={"cls_lung": ["healthy", "sick"], "seg": ["background"], "other": []}) == [
        "seg",
        "cls_lung",
    ]


def test_equal_names_and_two_that_take_clicks_are_refused() -> None:
    for two in ({"a": Masks(ORGANS), "b": Masks(ORGANS)}, {"a": Masks(ORGANS), "b": Masks(ORGANS, name="more")}):
        with pytest.raises(ValueError, match=r"own, and one of them at most may take clicks, got \['seg'"):
            declare(two)


def test_without_a_task_that_the_weights_answer_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \['seg'\] for weights of \['cls_heart'\]; use other weights"):
        declare({"seg": Masks(ORGANS)}, held={"cls_heart": ["a", "b"]})


@pytest.mark.parametrize("block", [3, "seg", [Masks(ORGANS), 3]])
def test_a_block_that_is_no_task_is_refused(block: object) -> None:
    with pytest.raises(ValueError, match=r"tasks#foo must be a task, .* got .*; correct it, or switch it off"):
        names({"seg": Masks(ORGANS), "foo": block})


@pytest.mark.parametrize("tasks", [None, 3])
def test_what_is_no_table_of_tasks_is_refused(tasks: object) -> None:
    with pytest.raises(ValueError, match=r"tasks must be a table of names and tasks, got .*--tasks#NAME '\$None'"):
        names(tasks)
