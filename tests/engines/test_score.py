# SPDX-License-Identifier: Apache-2.0
"""The validation score through a real engine, alone and in two processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator

from bundle.engines import MultiTaskScore
from bundle.tasks import Masks, Task, class_tasks
from bundle.tasks.masks import FoundMasks
from bundle.vocabulary import Organs

ORGANS = Organs(
    {"breast": {"structures": ["lesion"], "classes": ["normal", "malignant"]}, "indis": {"structures": ["head"]}}
)


def tasks(**options: Any) -> list[Task]:
    """Masks, scored with these options, and classes."""
    return [Masks(ORGANS, **options), *class_tasks(ORGANS)]


def answers(label_map: torch.Tensor, positive: float) -> dict[str, Any]:
    """What was found: a label map (1, H, W), and the probability of the second class."""
    classes = {"probabilities": torch.tensor([1 - positive, positive]), "asked": True, "shown": True}
    return {"seg": FoundMasks(label_map[0].to(torch.uint8)), "cls_breast": classes}


def make_item(name: str, shift: int | None, **changes: Any) -> dict[str, Any]:
    """A 10 x 10 truth and a prediction ``shift`` columns beside it; None: no mask."""
    label, pred = torch.zeros(1, 40, 60), torch.zeros(1, 40, 60)
    if shift is not None:
        label[0, 10:20, 10:20] = 1
        pred[0, 10:20, 10 + shift : 20 + shift] = 1
    item = {
        "image": MetaTensor(torch.zeros(3, 32, 32), meta={"filename_or_obj": name}),
        "found": answers(pred, 0.5),
        "label": MetaTensor(label),
        "labeled": torch.tensor([True, True, False]) if shift is not None else torch.zeros(3, dtype=torch.bool),
        "spacing": torch.tensor([math.nan, math.nan]),
        "targets": {"cls_breast": torch.tensor(-1)},
        "dataset": "BUSI",
        "patient": name,
        "group": name,
        "error": "",
    }
    return {**item, **changes}


def with_class(name: str, truth: int, positive: float) -> dict[str, Any]:
    found = answers(torch.zeros(1, 40, 60), positive)
    return make_item(name, None, targets={"cls_breast": torch.tensor(truth)}, found=found)


def run(batches: list[list[dict[str, Any]]], **options: Any) -> tuple[dict[str, float], MultiTaskScore]:
    score = MultiTaskScore(tasks(**options))
    engine = Engine(lambda engine, batch: batch)
    score.attach(engine, "val_score")
    engine.run(batches)
    return engine.state.metrics, score


MASKS = [make_item("a", 0), make_item("b", 5), make_item("c", 10, dataset="OTHER")]  # Dice 1, .5 and 0
CLASSES = [with_class("d", 1, 0.8), with_class("e", 1, 0.4), with_class("f", 0, 0.6), with_class("g", 0, 0.1)]


def test_the_score_is_the_mean_of_the_two_parts() -> None:
    metrics, score = run([MASKS[:2], MASKS[2:] + CLASSES[:1], CLASSES[1:]])
    assert metrics["val_dice_BUSI_lesion"] == pytest.approx(0.75)
    assert metrics["val_dice_OTHER_lesion"] == 0
    assert metrics["val_dice"] == pytest.approx(0.375)  # data sets count equally, however many images they have
    assert metrics["val_auroc"] == metrics["val_auroc_breast"] == pytest.approx(0.75)
    assert metrics["val_accuracy_breast"] == pytest.approx(0.5)
    assert metrics["val_score"] == pytest.approx((0.375 + 0.75) / 2)
    assert {name: len(rows) for name, rows in score.rows.items()} == {"seg": 3, "cls_breast": 4}
    assert "hd95" not in score.rows["seg"][0]


def test_one_part_alone_is_the_score() -> None:
    assert run([MASKS])[0]["val_score"] == pytest.approx(0.375)
    assert run([CLASSES])[0]["val_score"] == pytest.approx(0.75)


def test_a_label_set_in_which_a_class_is_missing_is_left_out() -> None:
    metrics, _ = run([[*MASKS, CLASSES[0]]])
    assert metrics["val_score"] == pytest.approx(0.375)
    assert metrics["val_accuracy_breast"] == 1
    assert "val_auroc" not in metrics


def test_nothing_to_score_warns_and_gives_zero() -> None:
    with pytest.warns(UserWarning, match="the score is 0"):
        assert run([[make_item("a", None)]])[0]["val_score"] == 0


def test_unreadable_images_are_listed_and_not_scored() -> None:
    _, score = run([[MASKS[0], make_item("broken.png", 3, error="truncated")]])
    assert [r["image"] for r in score.rows["seg"]] == ["a"]
    assert score.unreadable == [{"image": "broken.png", "error": "truncated"}]


def test_an_image_seen_twice_counts_once_and_each_epoch_starts_anew() -> None:
    score = MultiTaskScore(tasks())
    engine = Engine(lambda engine, batch: batch)
    score.attach(engine, "val_score")
    for _ in range(2):
        engine.run([[MASKS[0], MASKS[1]], [MASKS[0]]])
        assert engine.state.metrics["val_score"] == pytest.approx(0.75)
        assert len(score.rows["seg"]) == 2


def test_the_paper_protocol_stands_beside_the_native_score() -> None:
    item = make_item("a", 5)
    moved = item["found"]["seg"].label_map.roll(-5, 1)[None]
    item["found"], item["label"] = answers(moved, 0.5), item["label"].roll(-5, 2)  # truth leaves the square by half
    metrics, score = run([[item]], protocol="paper")
    assert metrics["val_score"] == pytest.approx(0.5)
    assert [r["dice"] for r in score.rows["seg"] if r["protocol"] == "paper"] == [pytest.approx(2 * 50 / 150)]


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \['native', 'paper'\], got 'papr'"):
        tasks(protocol="papr")


def test_an_output_that_is_not_decollated_is_refused() -> None:
    score = MultiTaskScore(tasks())
    engine = Engine(lambda engine, batch: {"pred": batch})
    score.attach(engine, "val_score")
    with pytest.raises(TypeError, match="must be a list of dictionaries"):
        engine.run([1])


def test_in_monais_evaluator_loaded_keys_are_found_in_the_batch() -> None:
    """MONAI keeps the keys that were loaded in ``state.batch`` and puts only what is new into ``state.output``."""

    class Copy(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image[:, :1]

    item = {
        "image": MetaTensor(torch.ones(3, 32, 32), meta={"filename_or_obj": "a.png"}),
        "label": MetaTensor(torch.ones(1, 32, 32)),
        "labeled": torch.tensor([True, True, False]),
        "spacing": torch.tensor([1.0, 1.0]),
        "targets": {"cls_breast": torch.tensor(-1)},
        "dataset": "BUSI",
    }
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader([item, {**item, "dataset": "OTHER"}], batch_size=2),
        network=Copy(),
        postprocessing=lambda item: {**item, "found": answers(item["pred"], 0.5)},
        key_val_metric={"val_score": MultiTaskScore(tasks())},
    )
    evaluator.run()
    assert evaluator.state.best_metric == 1
    # the two items name the same file, so that one of them counts
    assert evaluator.state.metrics["val_dice_OTHER_lesion"] == 1


def _score_on(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # the forked OpenMP pool has no threads behind it
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    batches = [[MASKS[0], CLASSES[0], CLASSES[1]], [MASKS[1]]] if rank == 0 else [[MASKS[2], *CLASSES[2:], MASKS[0]]]
    metrics, score = run(batches)
    torch.save({"metrics": metrics, "images": [r["image"] for r in score.rows["seg"]]}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_get_the_score_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(  # forked, as importing MONAI twice takes longer than all tests here
        _score_on, args=(str(tmp_path),), nprocs=2, start_method="fork"
    )
    expected, _ = run([MASKS + CLASSES])
    for rank in (0, 1):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["metrics"] == pytest.approx(expected)
        assert result["images"] == ["a", "c", "b"]  # dealt out one by one; "a" was seen by both
