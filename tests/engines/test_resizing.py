# SPDX-License-Identifier: Apache-2.0
"""Smaller images in the first part of a training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from bundle.engines import ProgressiveResizing
from bundle.tasks import Masks, Points, class_tasks
from bundle.vocabulary import Organs

ORGANS = Organs({"breast": {"structures": ["a", "b", "c"], "classes": ["x", "y"]}, "indis": {}})
TASKS = [Masks(ORGANS), *class_tasks(ORGANS), Points(ORGANS, {"breast": ["tip", "base"]})]


def batches(count: int, side: int) -> list[dict[str, Any]]:
    label = torch.zeros(2, 1, side, side)
    label[:, :, : side // 2] = 3.0
    labeled = torch.ones(2, 4, dtype=torch.bool)
    points = torch.tensor([[[side - 1.0, 9.5, 1.0], [0.0, 0.0, 0.0]]] * 2)
    targets = {"seg": {"label": label, "labeled": labeled}, "points": points, "cls_breast": torch.tensor([1, -1])}
    batch = {"image": torch.rand(2, 3, side, side), "targets": targets, "interaction": torch.full((2, 4), 5)}
    return [dict(batch) for _ in range(count)]


def seen(share: float, *, side: int = 128, first_epoch: int = 0) -> list[tuple[int, int, int]]:
    """Per iteration of two epochs of four: side of the image, side of the label, clicks that are planned."""
    found: list[tuple[int, int, int]] = []

    def step(engine: Engine, batch: dict[str, Any]) -> None:
        label = batch["targets"]["seg"]["label"]
        assert set(label.unique().tolist()) == {0.0, 3.0}
        found.append((batch["image"].shape[-1], label.shape[-2], int(batch["interaction"][0, 0])))

    engine = Engine(step)
    ProgressiveResizing(TASKS, 64, share).attach(engine)
    if first_epoch:
        engine.load_state_dict({"epoch": first_epoch, "max_epochs": 2, "epoch_length": 4})
        engine.run(batches(4, side))
    else:
        engine.run(batches(4, side), max_epochs=2)
    return found


def test_the_first_share_of_all_iterations_sees_small_images_and_no_user() -> None:
    small, full = (64, 64, 0), (128, 128, 5)
    assert seen(0.75) == [small] * 6 + [full] * 2
    assert seen(0.0) == [full] * 8


def test_a_resumed_run_goes_on_where_it_stood() -> None:
    assert seen(0.75, first_epoch=1) == seen(0.75)[4:]


def test_images_that_are_no_larger_stay_as_they_are() -> None:
    assert seen(0.75, side=64) == [(64, 64, 5)] * 8


def test_a_small_label_keeps_the_place_of_its_structure() -> None:
    engine = Engine(lambda engine, batch: batch)
    ProgressiveResizing(TASKS, 64, 0.5).attach(engine)
    states: list[dict[str, Any]] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: states.append(engine.state.output["targets"]))
    engine.run(batches(1, 128), max_epochs=2)
    labels = [state["seg"]["label"] for state in states]
    assert [label.shape[-1] for label in labels] == [64, 128]
    assert labels[0][0, 0, :32].eq(3).all()
    assert labels[0][0, 0, 32:].eq(0).all()


def test_a_small_target_keeps_its_points_and_classes() -> None:
    engine = Engine(lambda engine, batch: batch)
    ProgressiveResizing(TASKS, 64, 0.5).attach(engine)
    states: list[dict[str, Any]] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: states.append(engine.state.output["targets"]))
    engine.run(batches(1, 128), max_epochs=2)
    # the middle of the last of 128 rows is 127.5 from the edge, and 63.75 in 64 rows
    assert states[0]["points"][0].tolist() == [[63.25, 4.5, 1.0], [0.0, 0.0, 0.0]]
    assert states[1]["points"][0].tolist() == [[127.0, 9.5, 1.0], [0.0, 0.0, 0.0]]
    assert states[0]["cls_breast"].tolist() == [1, -1]


@pytest.mark.parametrize(("side", "share"), [(100, 0.5), (0, 0.5), ("half", 0.5), (64.0, 0.5)])
def test_a_side_that_the_network_cannot_see_is_refused(side: Any, share: float) -> None:
    with pytest.raises(ValueError, match=f"small_side must be a multiple of 32 pixels, got {side!r}"):
        ProgressiveResizing(TASKS, side, share)


@pytest.mark.parametrize("share", [-0.1, 1.0, 75, "most"])
def test_a_share_out_of_its_range_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match=rf"small_share must be a share of the iterations in \[0, 1\), got {share!r}"):
        ProgressiveResizing(TASKS, 64, share)
