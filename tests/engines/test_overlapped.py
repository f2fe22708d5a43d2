# SPDX-License-Identifier: Apache-2.0
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Lambdad

from bundle.data.tolerant import reason
from bundle.engines import OverlappedEvaluator


def evaluate(postprocessing: Compose, workers: int) -> list[Any]:
    """What a handler finds, image by image, of a network that doubles its input."""
    data = Dataset([{"image": torch.full((1, 2, 2), float(i)), "place": i} for i in range(5)])
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


def test_items_are_those_of_monais_evaluator() -> None:
    postprocessing = Compose([Lambdad("pred", lambda pred: pred + 1)])
    plain = [{**batch, **output} for batch, output in evaluate(postprocessing, workers=0)]
    overlapped = [output for _, output in evaluate(postprocessing, workers=1)]
    assert all(isinstance(output, Future) for output in overlapped)
    items = [output.result(timeout=30) for output in overlapped]
    assert [int(item["place"]) for item in items] == [0, 1, 2, 3, 4]
    for number, (mine, expected) in enumerate(zip(items, plain, strict=True)):
        assert mine.keys() == expected.keys()
        assert torch.equal(mine["pred"], torch.full((1, 2, 2), 2.0 * number + 1))
        assert torch.equal(mine["pred"], expected["pred"])


def test_an_error_reaches_who_waits() -> None:
    def fail(pred: torch.Tensor) -> torch.Tensor:
        raise ValueError("no mask today")

    (_, first), *_ = evaluate(Compose([Lambdad("pred", fail)]), workers=1)
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        first.result(timeout=30)
    assert reason(caught.value) == "no mask today"
