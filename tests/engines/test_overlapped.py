# SPDX-License-Identifier: Apache-2.0
import threading
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Lambdad

from bundle.data.tolerant import reason
from bundle.engines import OverlappedEvaluator


def evaluate(postprocessing: Compose, workers: int, reading: Any = None) -> list[Any]:
    """What a handler finds, image by image, of a network that doubles its input."""
    data = Dataset([{"image": torch.full((1, 2, 2), float(i)), "place": i} for i in range(5)], reading)
    evaluator = OverlappedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(data, batch_size=2, num_workers=workers),
        network=torch.nn.Identity(),
        inferer=lambda inputs, network: network(inputs) * 2,
        postprocessing=postprocessing,
        decollate=True,
    )
    found: list[Any] = []

    def collect(engine: Engine) -> None:
        found.extend(zip(engine.state.batch, engine.state.output, strict=True))

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, collect)
    evaluator.run()
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_items_come_in_order_and_postprocessed(workers: int) -> None:
    threads = torch.get_num_threads()
    outputs = [output for _, output in evaluate(Compose([Lambdad("pred", lambda pred: pred + 1)]), workers=workers)]
    assert all(isinstance(output, Future) for output in outputs)
    items = [output.result(timeout=30) for output in outputs]
    assert [int(item["place"]) for item in items] == [0, 1, 2, 3, 4]
    for number, item in enumerate(items):
        assert torch.equal(item["pred"], torch.full((1, 2, 2), 2.0 * number + 1))
        assert torch.equal(item["image"], torch.full((1, 2, 2), float(number)))
    assert torch.get_num_threads() == threads


def test_transforms_run_one_at_a_time_beside_the_network() -> None:
    """Reading and postprocessing share one thread, which is not the network's."""
    seen: list[tuple[str, int]] = []

    def note(what: str) -> Lambdad:
        def look(image: torch.Tensor) -> torch.Tensor:
            seen.append((what, threading.get_ident()))
            return image

        return Lambdad("image" if what == "read" else "pred", look)

    outputs = [output for _, output in evaluate(Compose([note("post")]), workers=0, reading=note("read"))]
    assert [output.result(timeout=30)["place"] for output in outputs] == [0, 1, 2, 3, 4]
    assert [what for what, _ in seen].count("read") == [what for what, _ in seen].count("post") == 5
    assert len({thread for _, thread in seen}) == 1
    assert threading.get_ident() not in {thread for _, thread in seen}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_reaches_who_waits(workers: int) -> None:
    def fail(pred: torch.Tensor) -> torch.Tensor:
        raise ValueError("no mask today")

    (_, first), *_ = evaluate(Compose([Lambdad("pred", fail)]), workers=workers)
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        first.result(timeout=30)
    assert reason(caught.value) == "no mask today"


def test_an_error_in_reading_stops_the_run() -> None:
    def fail(image: torch.Tensor) -> torch.Tensor:
        raise ValueError("no image today")

    with pytest.raises(RuntimeError, match="applying transform") as caught:
        evaluate(Compose([]), workers=0, reading=Lambdad("image", fail))
    assert reason(caught.value) == "no image today"
