# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from typing import Any

import pytest

from bundle.data.sampling import BalancedSampler, item_weights
from bundle.tasks import Classes, Masks
from bundle.vocabulary import Organs

ORGANS = Organs({"breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]}, "indis": {}})
TASKS = [Masks(ORGANS), Classes(ORGANS, "breast")]


def items(**counts: int) -> list[dict[str, Any]]:
    """Items of sets whose name tells the tasks: s (mask), c (class), b (both)."""
    return [
        {"dataset": name, "labeled": [name[0] in "sb"] * 2, "classes": {"breast": 0} if name[0] in "cb" else {}}
        for name, count in counts.items()
        for _ in range(count)
    ]


def shares(data: list[dict[str, Any]], sampler: BalancedSampler) -> dict[str, float]:
    drawn = Counter(data[d.place]["dataset"] for d in sampler)
    return {k: v / sampler.num_samples for k, v in drawn.items()}


def test_a_small_set_gets_its_share() -> None:
    data = items(s_big=900, s_small=100, c=500)
    sampler = BalancedSampler(
        data,
        tasks=TASKS,
        seed=0,
        batch_size=8,
        num_samples=1000,
        task_weights={"segmentation": 0.8, "classification": 0.2},
    )
    assert shares(data, sampler) == pytest.approx({"s_big": 0.4, "s_small": 0.4, "c": 0.2}, abs=0.002)


def test_dataset_weights_act_within_a_task() -> None:
    data = items(s_a=50, s_b=50)
    weights = item_weights(data, {"segmentation": 1.0}, {"s_a": 3.0}, tasks=TASKS)
    assert weights[:50].sum() == pytest.approx(0.75)


def test_patients_share_the_draws_of_their_set_where_asked() -> None:
    """Images without a mask are none of the segmentation's; those that name no patient are patients of their own."""
    data = [{**item, "patient": "ab"[place > 8]} for place, item in enumerate(items(s_a=10))]
    data[0] = {**data[0], "labeled": [False, False]}
    data += [*items(s_b=1), *items(s_b=1)]
    weights = item_weights(data, {"segmentation": 1.0}, {}, tasks=TASKS, balance_patients=True)
    assert weights.tolist() == pytest.approx([0, *[0.25 / 8] * 8, 0.25, 0.25, 0.25])
    plain = item_weights(data, {"segmentation": 1.0}, {}, tasks=TASKS)
    assert plain.tolist() == pytest.approx([0, *[0.5 / 9] * 9, 0.25, 0.25])


def test_a_set_with_both_labels_counts_for_both_tasks() -> None:
    weights = item_weights(items(b=10, c=10), {"segmentation": 1.0, "classification": 1.0}, {}, tasks=TASKS)
    assert weights[:10].sum() == pytest.approx(0.5 + 0.25)


def test_tasks_are_interleaved() -> None:
    data = items(s=500, c=500)
    sampler = BalancedSampler(
        data, tasks=TASKS, seed=0, batch_size=16, task_weights={"segmentation": 1, "classification": 1}
    )
    order = [data[d.place]["dataset"] for d in sampler]
    batches = [set(order[i : i + 16]) for i in range(0, 1000 - 16, 16)]
    assert all(batch == {"s", "c"} for batch in batches)


def test_plain_shuffle_draws_each_item_once() -> None:
    sampler = BalancedSampler(items(s=37), seed=0, batch_size=4)
    assert sorted(d.place for d in sampler) == list(range(37))


def test_epochs_differ_and_repeat_exactly() -> None:
    sampler = BalancedSampler(items(s=37), seed=3, batch_size=4)
    sampler.set_epoch(1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(2)
    assert list(sampler) != first


@pytest.mark.parametrize("count", [48, 45])
def test_two_processes_see_the_batches_of_one(count: int) -> None:
    one = list(BalancedSampler(items(s=count), seed=0, batch_size=8))
    two = [list(BalancedSampler(items(s=count), seed=0, batch_size=4, num_replicas=2, rank=r)) for r in (0, 1)]
    for b in range(count // 8):
        joint = two[0][b * 4 : b * 4 + 4] + two[1][b * 4 : b * 4 + 4]
        assert [d.place for d in joint] == [d.place for d in one[b * 8 : b * 8 + 8]]
    drawn = Counter(d.place for part in two for d in part)
    assert set(drawn) == set(range(count))
    assert drawn.total() == count + count % 2


def test_one_image_data_set() -> None:
    sampler = BalancedSampler(items(s=1), tasks=TASKS, seed=0, batch_size=4, task_weights={"segmentation": 1.0})
    assert [d.place for d in sampler] == [0]


def test_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="training items expected, got none"):
        BalancedSampler([], seed=0, batch_size=4)


def test_unknown_dataset_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset_weights must name data sets .*\['s'\], got \['x'\]"):
        BalancedSampler(
            items(s=2), tasks=TASKS, seed=0, batch_size=1, task_weights={"segmentation": 1}, dataset_weights={"x": 2}
        )


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf"), "x", True])
def test_weights_that_are_no_shares_are_refused(weight: Any) -> None:
    options = {"tasks": TASKS, "seed": 0, "batch_size": 1}
    with pytest.raises(ValueError, match=r"dataset_weights must map names to numbers from 0, got 's'"):
        BalancedSampler(items(s=2), **options, task_weights={"segmentation": 1}, dataset_weights={"s": weight})
    with pytest.raises(ValueError, match=r"task_weights must map names to numbers from 0, got 'segmentation'"):
        BalancedSampler(items(s=2), **options, task_weights={"segmentation": weight})


def test_a_task_that_is_switched_off_has_no_weight() -> None:
    with pytest.raises(ValueError, match=r"got \['organ'\]; write --task_weights \"\{'segmentation': 0\.7\}\""):
        BalancedSampler(items(s=2), tasks=TASKS, seed=0, batch_size=1, task_weights={"segmentation": 0.7, "organ": 0.1})


def test_weights_without_a_labeled_task_are_refused() -> None:
    with pytest.raises(ValueError, match="task_weights must give weight to a task"):
        BalancedSampler(items(s=2), tasks=TASKS, seed=0, batch_size=1, task_weights={"classification": 1.0})
