# SPDX-License-Identifier: Apache-2.0
"""An evaluator that postprocesses a batch while the network is at the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.transforms import apply_transform


class OverlappedEvaluator(SupervisedEvaluator):
    """MONAI's ``SupervisedEvaluator``, whose postprocessing runs in a thread of its own, one image after the other.

    ``engine.state.output`` then holds for each image a ``concurrent.futures.Future`` of the whole item, batch and
    output together; a handler waits for it where it needs it. Without loader processes everything stays as MONAI does
    it, for MONAI's transforms cannot be inverted in one thread while they are applied in another. MONAI's evaluator
    lets the network wait for the postprocessing.
    """

    def _register_postprocessing(self, posttrans: Callable[..., Any]) -> None:
        if not self.data_loader.num_workers:
            super()._register_postprocessing(posttrans)
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="postprocessing")

        def finish(batch: Mapping[str, Any], output: Mapping[str, Any]) -> Any:
            return apply_transform(posttrans, {**batch, **output})

        def submit(engine: Engine) -> None:
            pairs = zip(engine.state.batch, engine.state.output, strict=True)
            engine.state.output = [thread.submit(finish, batch, output) for batch, output in pairs]

        self.add_event_handler(IterationEvents.MODEL_COMPLETED, submit)
