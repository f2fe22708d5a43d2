# SPDX-License-Identifier: Apache-2.0
import csv
import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines.utils import IterationEvents
from torch import nn

from bundle.engines import (
    GradientClipping,
    MetricsHistory,
    NamedHandlers,
    RunSummary,
    SeededEpochs,
    TrainingProgress,
    UpdateAverage,
    ema_model,
)
from bundle.files import OutputFolder


def engine(step: Callable[..., Any] = lambda engine, batch: {"loss": torch.tensor(float(batch))}) -> Engine:
    trainer = Engine(step)
    trainer.register_events(*IterationEvents)
    return trainer


def validator(**metrics: float) -> Engine:
    """An evaluator that has just validated epoch 1."""
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.epoch = 1
    evaluator.state.metrics = metrics
    evaluator.state.key_metric_name, evaluator.state.best_metric, evaluator.state.best_metric_epoch = (
        "val_score",
        0.5,
        1,
    )
    return evaluator


class Called:
    """A handler that notes its name when the engine starts."""

    calls: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self.calls.append(self.name))


def test_named_handlers_act_in_their_order_without_those_that_a_config_disables() -> None:
    config: dict[str, Any] = {
        "named": {name: {"_target_": Called, "name": name} for name in "cab"},
        "handlers": [{"_target_": "bundle.engines.NamedHandlers", "handlers": "@named"}],
    }
    parser = ConfigParser(config)
    parser["named#a#_disabled_"] = "$1 > 0"
    parser["named#d"] = {"_target_": Called, "name": "d"}  # as an overlay adds one
    (group,) = parser.get_parsed_content("handlers")
    assert isinstance(group, NamedHandlers)
    trainer = engine()
    group.attach(trainer)
    Called.calls.clear()
    trainer.run([1])
    assert Called.calls == ["c", "b", "d"]


@pytest.mark.parametrize(("max_norm", "expected"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_gradients_are_clipped_to_their_joint_norm(max_norm: float, expected: list[float]) -> None:
    network = nn.ParameterList([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))])
    network[0].grad, network[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    trainer = engine()
    GradientClipping(network, max_norm).attach(trainer)
    trainer.fire_event(IterationEvents.BACKWARD_COMPLETED)
    assert [float(p.grad) for p in network] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    network = nn.Linear(1, 1)
    network(torch.tensor([float("nan")])).backward()
    trainer = engine()
    GradientClipping(network, 1.0).attach(trainer)
    trainer.state.epoch, trainer.state.iteration = 2, 7
    with pytest.raises(
        FloatingPointError, match=r"finite, got nan in epoch 2, iteration 7; lower the .*--learning_rate.*--amp false"
    ):
        trainer.fire_event(IterationEvents.BACKWARD_COMPLETED)


def test_average_follows_closely_at_first_and_then_with_its_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = ema_model(network, decay=0.5)
    trainer, values = engine(), []
    UpdateAverage(network, average).attach(trainer)
    for value in (1.0, 2.0, 4.0, 0.0):
        nn.init.constant_(network.weight, value)
        trainer.fire_event(Events.ITERATION_COMPLETED)
        values.append(average.module.weight.item())
    # first a copy; then update n keeps (1 + n) / (10 + n) of the average: 2/11, 3/12, 4/13
    second = 1 * 2 / 11 + 2 * 9 / 11
    third = second * 3 / 12 + 4 * 9 / 12
    assert values == pytest.approx([1, second, third, third * 4 / 13])
    average.n_averaged.fill_(1000)
    trainer.fire_event(Events.ITERATION_COMPLETED)
    assert average.module.weight.item() == pytest.approx(values[-1] * 0.5)


def test_average_copies_buffers() -> None:
    network = nn.BatchNorm1d(1)
    average = ema_model(network, decay=0.5)
    average.update_parameters(network)
    network.running_mean.fill_(8.0)
    average.update_parameters(network)
    assert average.module.running_mean.tolist() == [8.0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_has_the_same_random_numbers_in_a_resumed_run(workers: int) -> None:
    """Epoch 2 of a run is equal to epoch 2 of a run that starts with it, and differs from epoch 1."""

    def numbers(first_epoch: int) -> list[float]:
        drawn: list[float] = []
        trainer = engine(lambda engine, batch: drawn.append(torch.rand(1).item()))

        @trainer.on(Events.STARTED)
        def resume() -> None:
            trainer.state.epoch, trainer.state.iteration = first_epoch - 1, 3 * (first_epoch - 1)

        SeededEpochs(seed=0).attach(trainer)
        loader = torch.utils.data.DataLoader([0, 1, 2], num_workers=workers, persistent_workers=workers > 0)
        trainer.run(loader, max_epochs=2)
        for worker in multiprocessing.active_children():  # collected as garbage, a loader waits 5 s for each
            worker.terminate()
        return drawn

    torch.manual_seed(123)
    unbroken = numbers(1)
    assert unbroken[3:] == numbers(2)
    assert len(set(unbroken)) == 6


def test_progress_shows_loss_dice_and_auroc(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = engine(lambda engine, batch: {"loss": torch.tensor(0.25, requires_grad=True)})
    TrainingProgress(validator(val_dice=0.75, val_auroc=0.875, val_dice_B_lesion=0.1)).attach(trainer)
    trainer.run([0, 0], max_epochs=2)
    bar = capsys.readouterr().err
    assert "Epoch [2/2]" in bar
    assert "loss=0.25, Dice=0.75, AUROC=0.875" in bar
    assert "B_lesion" not in bar


def history(path: Path, evaluator: Engine | None) -> MetricsHistory:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.125)
    return MetricsHistory(str(path), optimizer=optimizer, evaluator=evaluator)


def rows(path: Path) -> list[dict[str, str]]:
    found = list(csv.DictReader(path.open()))
    for row in found:
        assert float(row.pop("seconds")) >= 0
    return found


def test_history_has_the_mean_loss_and_the_metrics_of_validated_epochs(tmp_path: Path) -> None:
    trainer = engine()
    history(tmp_path / "metrics.csv", validator(val_score=0.5)).attach(trainer)
    trainer.run([1.0, 2.0, 6.0], max_epochs=2)
    assert rows(tmp_path / "metrics.csv") == [
        {"epoch": "1", "loss": "3.000000", "learning_rate": "0.125", "val_score": "0.5000"},
        {"epoch": "2", "loss": "3.000000", "learning_rate": "0.125", "val_score": ""},
    ]


def test_history_keeps_its_numbers_and_names_when_it_is_read_and_written(tmp_path: Path) -> None:
    trainer = engine()
    history(tmp_path / "metrics.csv", validator(**{"=val": -0.5, "val_a,\n": 0.25})).attach(trainer)
    trainer.run([-1.0], max_epochs=3)
    first = rows(tmp_path / "metrics.csv")[0]  # read and written twice since
    assert (first["loss"], first["'=val"], first["val_a,\n"]) == ("-1.000000", "-0.5000", "0.2500")


def test_history_of_a_resumed_run_drops_what_it_repeats(tmp_path: Path) -> None:
    table = b"epoch,loss,learning_rate,seconds\n1,5.0,0.1,1\n2,4.0,0.1,1\n3,3.0,0.1,1\n"
    path = OutputFolder(tmp_path).write("metrics.csv", table)
    trainer = engine()
    history(path, None).attach(trainer)
    trainer.add_event_handler(Events.STARTED, lambda: setattr(trainer.state, "epoch", 1))
    trainer.run([1.0], max_epochs=2)
    assert [(row["epoch"], row["loss"]) for row in rows(path)] == [("1", "5.0"), ("2", "1.000000")]
    history(path, None).attach(fresh := engine())
    fresh.run([2.0], max_epochs=1)
    assert [(row["epoch"], row["loss"]) for row in rows(path)] == [("1", "2.000000")]


def test_summary_tells_the_time_the_best_score_and_each_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "here").touch()
    trainer, evaluator = engine(), validator()

    def validate(trainer: Engine) -> None:
        """The second epoch is the worse one."""
        evaluator.state.epoch = trainer.state.epoch
        evaluator.state.metrics = {"val_dice": 0.75 / trainer.state.epoch, "val_auroc": 0.25}
        evaluator.fire_event(Events.COMPLETED)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    RunSummary({"weights": str(tmp_path / "here"), "sheet": str(tmp_path / "absent")}, evaluator).attach(trainer)
    with caplog.at_level(logging.INFO):
        trainer.run([1.0], max_epochs=2)
    assert [record.message for record in caplog.records if record.name == "bundle.engines.handlers"] == [
        "trained for 0 min 0 s",
        "best val_score 0.5000 in epoch 1, Dice 0.7500, AUROC 0.2500",
        f"weights: {tmp_path / 'here'}",
        f"sheet: {tmp_path / 'absent'} (not written)",
    ]
