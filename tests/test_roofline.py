# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.benchmarks.roofline import Machine, Work, measure_machine, measure_work


def test_work_of_a_convolution_and_a_linear_layer():
    network = nn.Sequential(nn.Conv2d(2, 3, kernel_size=1), nn.Flatten(), nn.Linear(48, 5))
    work = measure_work(network, torch.zeros(1, 2, 4, 4))
    assert work.operations == 2 * (2 * 3 * 16 + 48 * 5)
    assert work.values == (32 + 48 + 2 * 3 + 3) + (48 + 5 + 48 * 5 + 5)  # input, output, weights, biases of each


@pytest.mark.parametrize(("precision", "seconds"), [("float32", 4.0), ("bfloat16", 2.0), ("int8", 1.5)])
def test_least_time_is_that_of_the_operations_or_of_the_bytes(precision, seconds):
    machine = Machine(operations={"float32": 100.0, "bfloat16": 300.0, "int8": 200.0}, bandwidth=100.0)
    assert Work(operations=300, values=100).seconds(machine, precision) == seconds


def test_machine_has_a_rate_for_each_precision():
    machine = measure_machine(side=64, rounds=1)
    assert set(machine.operations) == {"float32", "bfloat16", "int8"}
    assert min(*machine.operations.values(), machine.bandwidth) > 0
