# SPDX-License-Identifier: Apache-2.0
"""A training that is interrupted, which tests of resuming share."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Train = Callable[..., None]


def stop_in_epoch_2(run_training: Train, interruption: Callable[..., str], folder: Path, **options: Any) -> None:
    """Trains one epoch of two, of three iterations each."""
    with pytest.raises(KeyboardInterrupt):
        run_training(folder, interruption(signal.SIGINT, 4), **options)
