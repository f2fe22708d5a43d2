# SPDX-License-Identifier: Apache-2.0
"""An evaluator that has several batches on their way at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from ignite.engine import Engine
from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator
from monai.transforms import apply_transform
from monai.utils.enums import CommonKeys as Keys

Items = Sequence[Any]


class OverlappedEvaluator(SupervisedEvaluator):
    """MONAI's ``SupervisedEvaluator`` with several batches on their way at once, each in a thread of its own.

    Such a lane reads a batch (loader processes do, where there are any), runs the network, postprocesses each image and
    writes it, so that one batch is in the network while another one is read or written, and no core waits. The lanes
    share PyTorch's threads. Both ``engine.state.batch`` and ``engine.state.output`` are the finished items, in the
    order of the loader. MONAI's evaluator does one after the other. It also collates the items, which for their meta
    takes longer than all that is done to make an image small.

    Args:
        val_data_loader: loader of the images, with MONAI's ``no_collation``.
        lanes: batches on their way at once.
        postprocessing: of one image, which need not mind other threads: no random transforms.
        write: takes a finished item, for example into files, and gives it back with what handlers should know of that.
        options: the others of ``SupervisedEvaluator``, ``prepare_batch`` being one for lists of items; ``amp`` and
            ``compile`` are not looked at.
    """

    def __init__(
        self,
        val_data_loader: Any,
        *,
        lanes: int,
        postprocessing: Callable[[Any], Any],
        write: Callable[[Any], Any],
        **options: Any,
    ) -> None:
        super().__init__(val_data_loader=val_data_loader, decollate=False, **options)
        self.finish, self.write = postprocessing, write
        self.data_loader: Any = _Lanes(val_data_loader, self._items, lanes)

    def run(self, global_epoch: int = 1) -> None:
        """As MONAI's, the network being in evaluation for the whole run."""
        with self.mode(self.network):
            super().run(global_epoch)

    @torch.no_grad()
    def _items(self, items: Items) -> Items:
        """The items of a batch with what the network says of them, postprocessed and written."""
        outputs: list[Any] = [None] * len(items)
        shapes = [tuple(item[Keys.IMAGE].shape) for item in items]  # images of several panels are higher
        for shape in dict.fromkeys(shapes):
            places = [place for place, other in enumerate(shapes) if other == shape]
            for place, output in zip(places, self._outputs([items[place] for place in places]), strict=True):
                outputs[place] = output
        return [
            self.write(apply_transform(self.finish, {**item, Keys.PRED: output}))
            for item, output in zip(items, outputs, strict=True)
        ]

    def _outputs(self, items: Items) -> list[Any]:
        """What the network says of items whose images have one size."""
        inputs, _, args, kwargs = self.prepare_batch(items, self.state.device, self.non_blocking, **self.to_kwargs)
        outputs: list[Any] = decollate_batch(self.inferer(inputs, self.network, *args, **kwargs))
        return outputs

    def _iteration(self, engine: Engine, batchdata: Items) -> Items:
        return batchdata


class _Lanes:
    """The batches of a data loader, each after ``work``; as many as there are lanes are worked on at once."""

    def __init__(self, loader: Any, work: Callable[[Items], Items], lanes: int) -> None:
        self.loader, self.work, self.lanes = loader, work, lanes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Items]:
        threads = torch.get_num_threads()
        share = max(1, threads // self.lanes)
        pool = ThreadPoolExecutor(self.lanes, "lane", initializer=torch.set_num_threads, initargs=(share,))
        coming: deque[Future[Items]] = deque()
        try:
            for batch in self.loader if self.loader.num_workers else self.loader.batch_sampler:
                coming.append(pool.submit(self._work, batch))
                if len(coming) > self.lanes:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # a lane's number is that of threads to come

    def _work(self, batch: Sequence[Any]) -> Items:
        read = batch if self.loader.num_workers else [self.loader.dataset[index] for index in batch]
        return self.work(read)
