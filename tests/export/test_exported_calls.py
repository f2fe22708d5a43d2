# SPDX-License-Identifier: Apache-2.0
"""Exported models in several threads, and when they go."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.engines.runtimes import SUFFIXES, ExportedNetwork

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "configs/train.yaml"
FORMATS = sorted(SUFFIXES)


@pytest.mark.parametrize("kind", FORMATS)
def test_threads_may_call_a_model_at_once(exports: dict[str, Any], kind: str) -> None:
    path = exports["folder"] / f"model_float32{SUFFIXES[kind]}"
    exported = ExportedNetwork(path, threads=1, streams=3)
    torch.manual_seed(2)
    images = [torch.randn(1 + n % 2, 3, 64, 64) for n in range(24)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(exported.predict, images))
    alone = ExportedNetwork(path, threads=1)
    for image, outputs in zip(images, found, strict=True):
        for name, logits in alone.predict(image).items():
            torch.testing.assert_close(outputs[name], logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_first_calls_may_come_at_once(exports: dict[str, Any], kind: str) -> None:
    """In processes of their own: OpenVINO's first two calls waited for each other in every second one."""
    code = f"""
import sys, threading, torch
from bundle.engines.runtimes import ExportedNetwork

exported = ExportedNetwork({str(exports["folder"] / f"model_float32{SUFFIXES[kind]}")!r}, threads=1, streams=2)
calls = [threading.Thread(target=exported.predict, args=(torch.zeros(2, 3, 64, 64),)) for _ in range(2)]
for call in calls:
    call.start()
for call in calls:
    call.join()
"""
    for _ in range(3 if kind == "openvino" else 1):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=600, check=True)


SIGNAL_STACK = """
import ctypes, gc, sys
import torch
from pathlib import Path
from bundle.engines.runtimes import ExportedNetwork

class Stack(ctypes.Structure):
    _fields_ = [("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def load():
    network = ExportedNetwork(sys.argv[1], threads=1)
    network.predict(torch.zeros(1, 3, 64, 64))
    return network

first, second = load(), load()
del first
gc.collect()
del second
gc.collect()
stack = Stack()
assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
ends = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
mapped = any(int(low, 16) <= stack.place < int(high, 16) for low, high in ends) if stack.place else True
print("mapped", mapped)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="alternate signal stacks are looked up in /proc")
def test_models_that_go_leave_no_broken_signal_stack(exports: dict[str, Any]) -> None:
    model = str(exports["folder"] / "model_float32.xml")
    command = [sys.executable, "-c", SIGNAL_STACK, model]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["mapped", "True"], done.stderr
