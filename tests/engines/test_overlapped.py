# SPDX-License-Identifier: Apache-2.0
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.data.utils import no_collation
from monai.transforms import Compose, Lambdad

from bundle.engines import OverlappedEvaluator
from bundle.failures import reason

LANES = 3


def stack(
    items: Sequence[Mapping[str, Any]], *_: Any, **__: Any
) -> tuple[torch.Tensor, None, tuple[()], dict[str, Any]]:
    return torch.stack([item["image"] for item in items]), None, (), {}


def evaluate(
    postprocessing: Compose, *, workers: int = 0, reading: Any = None, inferer: Any = None, write: Any = dict
) -> tuple[list[Any], list[int]]:
    """What a handler finds, and how many at a time, of a network that doubles its input unless there is an inferer."""
    data = Dataset([{"image": torch.full((1, 2, 2), float(i)), "place": i} for i in range(9)], reading)
    evaluator = OverlappedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(data, batch_size=2, num_workers=workers, collate_fn=no_collation),
        lanes=LANES,
        network=torch.nn.Dropout(),
        inferer=inferer or (lambda inputs, network: network(inputs) * 2),
        prepare_batch=stack,
        postprocessing=postprocessing,
        write=write,
    )
    found: list[Any] = []
    sizes: list[int] = []

    def collect(engine: Engine) -> None:
        found.extend(engine.state.output)
        sizes.append(len(engine.state.output))

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, collect)
    evaluator.run()
    return found, sizes


@pytest.mark.parametrize("workers", [0, 1])
def test_items_come_in_order_and_postprocessed(workers: int) -> None:
    threads = torch.get_num_threads()
    items, sizes = evaluate(Compose([Lambdad("pred", lambda pred: pred + 1)]), workers=workers)
    assert sizes == [2, 2, 2, 2, 1]
    assert [item["place"] for item in items] == list(range(9))
    for number, item in enumerate(items):
        assert torch.equal(item["pred"], torch.full((1, 2, 2), 2.0 * number + 1))  # no dropout: in evaluation
        assert torch.equal(item["image"], torch.full((1, 2, 2), float(number)))
    assert torch.get_num_threads() == threads


def test_the_batches_are_on_their_way_at_once() -> None:
    """The first batches wait for one another, which they could not if each waited for the one before to end."""
    together = threading.Barrier(LANES, timeout=300)
    seen: list[tuple[int, bool, int]] = []

    def wait(inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        seen.append((threading.get_ident(), torch.is_grad_enabled(), torch.get_num_threads()))
        if int(inputs.min()) < 2 * LANES:
            together.wait()
        return inputs

    items, _ = evaluate(Compose([]), inferer=wait)
    assert [item["place"] for item in items] == list(range(9))
    lanes = {thread for thread, _, _ in seen}
    assert len(lanes) == LANES
    assert threading.get_ident() not in lanes
    assert {(grad, threads) for _, grad, threads in seen} == {(False, max(1, torch.get_num_threads() // LANES))}


def test_no_more_is_read_ahead_than_there_are_lanes() -> None:
    """What is finished and what is under way stays bounded, however slow the handlers are."""
    read: list[int] = []
    ahead: list[int] = []
    data = Dataset([{"image": torch.zeros(1), "place": i} for i in range(12)], lambda item: read.append(0) or item)
    evaluator = OverlappedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(data, batch_size=1, collate_fn=no_collation),
        lanes=2,
        network=torch.nn.Identity(),
        prepare_batch=stack,
        postprocessing=Compose([]),
        write=dict,
    )

    def count(engine: Engine) -> None:
        threading.Event().wait(0.02)
        ahead.append(len(read) - engine.state.iteration)

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, count)
    evaluator.run()
    assert len(read) == 12
    assert max(ahead) <= 2


def test_a_lane_writes_what_it_finished() -> None:
    """Handlers find what the writer gave back. Each lane waits for the others to write, as no single thread could."""
    together = threading.Barrier(LANES, timeout=300)

    def write(item: dict[str, Any]) -> dict[str, Any]:
        if item["place"] < 2 * LANES and item["place"] % 2:
            together.wait()
        return {**item, "written": float(item["pred"].mean())}

    items, _ = evaluate(Compose([Lambdad("pred", lambda pred: pred + 1)]), write=write)
    assert [item["written"] for item in items] == [2.0 * n + 1 for n in range(9)]


def test_an_error_in_writing_stops_the_run_as_it_is() -> None:
    def write(item: dict[str, Any]) -> dict[str, Any]:
        raise OSError("no space today")

    with pytest.raises(OSError, match=r"^no space today$"):
        evaluate(Compose([]), write=write)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_stops_the_run(workers: int) -> None:
    threads = torch.get_num_threads()

    def fail(pred: torch.Tensor) -> torch.Tensor:
        raise ValueError("no mask today")

    with pytest.raises(RuntimeError, match="applying transform") as caught:
        evaluate(Compose([Lambdad("pred", fail)]), workers=workers)
    assert reason(caught.value) == "no mask today"
    assert torch.get_num_threads() == threads
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_an_error_in_reading_stops_the_run() -> None:
    def fail(image: torch.Tensor) -> torch.Tensor:
        raise ValueError("no image today")

    with pytest.raises(RuntimeError, match="applying transform") as caught:
        evaluate(Compose([]), reading=Lambdad("image", fail))
    assert reason(caught.value) == "no image today"
