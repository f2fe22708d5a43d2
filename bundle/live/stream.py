# SPDX-License-Identifier: Apache-2.0
"""Three threads in a row: one reads, one runs the network, the caller's takes the results."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from bundle.live.pictures import Frame, Result

T = TypeVar("T")

POLL = 0.2
"""Seconds after which a waiting thread looks up, so that Ctrl-C is heard on systems whose locks are deaf to it."""


class BoundedQueue(Generic[T]):
    """A queue between two threads.

    Args:
        size: what it holds at most.
        newest_first: who takes gets the newest, and what is older is dropped; a full queue drops its oldest. Without
            it everything arrives in order, and who puts into a full queue waits.
    """

    def __init__(self, size: int, *, newest_first: bool = False) -> None:
        self.size, self.newest_first = size, newest_first
        self.dropped = 0
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False

    def put(self, item: T) -> bool:
        """Adds an item; False when the queue is finished and takes none."""
        with self._changed:
            while len(self._items) >= self.size and not self.newest_first and not self._finished:
                self._changed.wait(POLL)
            if self._finished:
                return False
            if len(self._items) >= self.size:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> T | None:
        """The next item; None when the queue is finished and empty."""
        with self._changed:
            while not self._items and not self._finished:
                self._changed.wait(POLL)
            if not self._items:
                return None
            if self.newest_first:
                self.dropped += len(self._items) - 1
                item = self._items.pop()
                self._items.clear()
            else:
                item = self._items.popleft()
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """Nothing more will be put; what is there can still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()


class Stream:
    """Results of frames, in order, while the next frames are read and segmented.

    Args:
        frames: the source, see ``bundle.live.sources.play``.
        work: frame to result; runs in one thread, in the frames' order.
        realtime: keep up with the source by dropping older frames.
        size: frames that wait at most.
    """

    def __init__(
        self,
        frames: Generator[Frame, None, None] | Iterator[Frame],
        work: Callable[[Frame], Result],
        *,
        realtime: bool,
        size: int = 2,
    ) -> None:
        self.frames, self.work = frames, work
        self.incoming: BoundedQueue[Frame] = BoundedQueue(size, newest_first=realtime)
        self.outgoing: BoundedQueue[Result] = BoundedQueue(1 if realtime else size)
        self.read = 0
        self.stopped_early = False
        self._errors: list[BaseException] = []

    @property
    def dropped(self) -> int:
        """Frames that were read and left out."""
        return self.incoming.dropped

    def stop(self) -> None:
        """Reads no more; the frames that wait (none but the newest in real time) still get their result."""
        self.stopped_early = True
        self.incoming.finish()

    def __iter__(self) -> Iterator[Result]:
        """The results.

        Raises:
            Exception: what the source or the work raised, after the results until then.
        """
        threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._work)]
        for thread in threads:
            thread.start()
        try:
            while (result := self.outgoing.get()) is not None:
                yield result
        finally:
            self.incoming.finish()
            self.outgoing.finish()
            for thread in threads:
                thread.join(timeout=10)  # a camera's driver may hang
        if self._errors:
            raise self._errors[0]

    def _read(self) -> None:
        try:
            for frame in self.frames:
                if not self.incoming.put(frame):
                    break
                self.read += 1
        except Exception as error:
            self._errors.append(error)
        finally:
            if isinstance(self.frames, Generator):
                self.frames.close()
            self.incoming.finish()

    def _work(self) -> None:
        try:
            while (frame := self.incoming.get()) is not None and self.outgoing.put(self.work(frame)):
                pass
        except Exception as error:
            self._errors.append(error)
        finally:
            self.incoming.finish()
            self.outgoing.finish()
