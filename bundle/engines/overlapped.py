# SPDX-License-Identifier: Apache-2.0
"""An evaluator that reads the next images and postprocesses the last ones while the network is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.transforms import apply_transform


class OverlappedEvaluator(SupervisedEvaluator):
    """MONAI's ``SupervisedEvaluator`` with all transforms in a thread of their own, beside the network.

    Without loader processes that thread reads the next batch, then postprocesses the last one, an image after the
    other: MONAI's transforms cannot be inverted in one thread while they are applied in another. With them it only
    postprocesses. It computes on one core; the network keeps PyTorch's threads. ``engine.state.output`` holds for each
    image a ``concurrent.futures.Future`` of the whole item, batch and output together; a handler waits for it where it
    needs it. MONAI's evaluator lets the network wait for both.

    Args:
        val_data_loader: loader of the images.
        options: the others of ``SupervisedEvaluator``.
    """

    def __init__(self, val_data_loader: Any, **options: Any) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="transforms")
        threads = torch.get_num_threads()
        self.thread.submit(torch.set_num_threads, 1).result()  # its own, and the default of threads to come
        torch.set_num_threads(threads)
        super().__init__(val_data_loader=val_data_loader, **options)
        self.data_loader: Any = val_data_loader
        if not val_data_loader.num_workers:
            self.data_loader = _ReadAhead(val_data_loader, self.thread)

    def _register_postprocessing(self, posttrans: Callable[..., Any]) -> None:
        def finish(batch: Mapping[str, Any], output: Mapping[str, Any]) -> Any:
            return apply_transform(posttrans, {**batch, **output})

        def submit(engine: Engine) -> None:
            pairs = zip(engine.state.batch, engine.state.output, strict=True)
            engine.state.output = [self.thread.submit(finish, batch, output) for batch, output in pairs]

        self.add_event_handler(IterationEvents.MODEL_COMPLETED, submit)


class _ReadAhead:
    """A data loader whose next batch is read in a thread while the present one is used."""

    def __init__(self, loader: Any, thread: ThreadPoolExecutor) -> None:
        self.loader, self.thread = loader, thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        coming = self.thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = self.thread.submit(next, batches, None)
            yield batch
