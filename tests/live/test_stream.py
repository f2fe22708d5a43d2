# SPDX-License-Identifier: Apache-2.0
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from bundle.live import Frame, Result, Stream, blank
from bundle.live.stream import BoundedQueue

FRAME = blank(8, 8)


def work(frame: Frame) -> Result:
    return Result(frame, np.zeros((8, 8), np.uint8), {}, work=0.0, latency=time.perf_counter() - frame.captured)


def slow(frame: Frame) -> Result:
    time.sleep(0.03)
    return work(frame)


def frames(count: int, pause: float = 0.0) -> Iterator[Frame]:
    for index in range(count):
        time.sleep(pause)
        yield replace(FRAME, index=index, captured=time.perf_counter())


def test_queue_gives_the_newest_and_counts_what_it_drops() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2, newest_first=True)
    assert all(queue.put(n) for n in range(5))
    assert queue.dropped == 3  # 0, 1, 2 fell out of a full queue
    assert queue.get() == 4
    assert queue.dropped == 4  # 3 is older than what was taken


def test_queue_in_order_drops_nothing_and_ends() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    assert queue.put(0)
    assert queue.put(1)
    queue.finish()
    assert not queue.put(2)
    assert [queue.get(), queue.get(), queue.get(), queue.dropped] == [0, 1, None, 0]


def test_every_frame_of_a_file_arrives_in_order() -> None:
    stream = Stream(frames(20), slow, realtime=False)
    assert [result.frame.index for result in stream] == list(range(20))
    assert (stream.read, stream.dropped) == (20, 0)


def test_a_slow_network_in_real_time_drops_frames_and_stays_near_the_newest() -> None:
    stream = Stream(frames(60, pause=0.005), slow, realtime=True)
    indices = [result.frame.index for result in stream]
    assert indices == sorted(set(indices))
    assert stream.dropped > 0
    assert len(indices) + stream.dropped == stream.read == 60


def test_a_slow_reader_of_results_holds_a_file_back_and_drops_from_a_camera() -> None:
    for realtime in (False, True):
        stream = Stream(frames(30, pause=0.002), work, realtime=realtime)
        count = 0
        for _ in stream:
            time.sleep(0.02)
            count += 1
        assert count + stream.dropped == 30
        assert (stream.dropped > 0) == realtime


def test_stop_ends_an_endless_source_and_closes_it() -> None:
    closed = []

    def endless() -> Iterator[Frame]:
        try:
            for index in itertools.count():
                yield replace(FRAME, index=index)
        finally:
            closed.append(True)

    stream, indices = Stream(endless(), slow, realtime=False), []
    for result in stream:
        indices.append(result.frame.index)
        if len(indices) == 3:
            stream.stop()
    assert indices == list(range(stream.read))
    assert len(indices) < 12
    assert closed == [True]


def test_errors_of_the_source_and_of_the_network_arrive_after_the_results() -> None:
    def broken() -> Iterator[Frame]:
        yield from frames(3)
        raise OSError("the cable is out")

    def failing(frame: Frame) -> Result:
        if frame.index == 2:
            raise ValueError("no such shape")
        return work(frame)

    for stream, kind, match in (
        (Stream(broken(), work, realtime=False), OSError, "the cable is out"),
        (Stream(frames(9), failing, realtime=False), ValueError, "no such shape"),
    ):
        found: list[int] = []
        with pytest.raises(kind, match=match):
            found.extend(result.frame.index for result in stream)
        assert found == list(range(len(found)))
        assert len(found) >= 2
