# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from bundle.engines import warmup_polynomial


def factors(*, iterations: int, epochs: int, warmup_epochs: float) -> list[float]:
    """Learning rate of each step of a training whose peak is 1, and of the step after it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_polynomial(optimizer, loader=range(iterations), epochs=epochs, warmup_epochs=warmup_epochs)
    rates = []
    for _ in range(iterations * epochs + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def test_linear_warm_up_then_polynomial_decay_to_zero() -> None:
    rates = factors(iterations=4, epochs=10, warmup_epochs=1)
    assert rates[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    assert rates[22] == pytest.approx(0.5**0.9)  # half of the 36 steps after the warm-up
    assert rates[40] == 0
    assert rates[39] == pytest.approx((1 / 36) ** 0.9)


def test_warm_up_takes_a_tenth_of_a_short_training_at_most() -> None:
    assert factors(iterations=10, epochs=2, warmup_epochs=1)[:3] == pytest.approx([1 / 3, 2 / 3, 1])


def test_no_warm_up() -> None:
    assert factors(iterations=2, epochs=1, warmup_epochs=0) == pytest.approx([1, 0.5**0.9, 0])
