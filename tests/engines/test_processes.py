# SPDX-License-Identifier: Apache-2.0
import os
import platform
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from ignite.engine import Engine, Events

from bundle.engines.processes import run_share

ROOT = Path(__file__).resolve().parents[2]
LOADER = """
import os
from torch.utils.data import DataLoader
from bundle.engines.processes import end_with_parent

class Large:
    def __len__(self):
        return 99
    def __getitem__(self, index):
        print(os.getpid(), flush=True)
        return bytes(1_000_000)  # more than a pipe takes

batches = iter(DataLoader(Large(), num_workers=1, worker_init_fn=end_with_parent))
next(batches)
input()
"""


def gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends the process")
def test_a_loaders_process_ends_with_the_one_that_started_it() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LOADER], text=True, env=environment, **pipes) as parent:  # type: ignore[call-overload]
        worker = int(parent.stdout.readline())
        assert not gone(worker)
        parent.kill()
        deadline = time.monotonic() + 300
        while not gone(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        ended = gone(worker)
        if not ended:
            os.kill(worker, signal.SIGKILL)
    assert ended


def test_a_process_without_images_takes_part_at_the_start_and_at_the_end() -> None:
    seen: list[str] = []
    engine = Engine(lambda engine, batch: seen.append("image"))
    engine.data_loader = []  # type: ignore[attr-defined]
    for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
        engine.add_event_handler(event, partial(seen.append, event.name))
    run_share(engine, remedy="")
    assert seen == ["STARTED", "EPOCH_STARTED", "EPOCH_COMPLETED", "COMPLETED"]


def test_errors_of_other_origin_stay_as_they_are() -> None:
    def step(engine: Engine, batch: int) -> None:
        raise RuntimeError("out of memory")

    engine = Engine(step)
    engine.data_loader = [0]  # type: ignore[attr-defined]
    engine.run = partial(engine.run, engine.data_loader)  # type: ignore[method-assign]  # as MONAI's engines run
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        run_share(engine, remedy="")


FREED = """
import resource, torch
from bundle.engines.processes import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10_000_000)  # 40 MB, some ten thousand pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
keep_freed_memory()
faults()
print(plain, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_not_asked_for_again() -> None:
    """In a process of its own: the setting cannot be taken back."""
    found = subprocess.run([sys.executable, "-c", FREED], cwd=ROOT, capture_output=True, text=True, check=True)
    plain, kept = (int(n) for n in found.stdout.split())
    assert plain > 50_000
    assert kept < 1_000
