# SPDX-License-Identifier: Apache-2.0
"""The command, and images for it."""

import contextlib
import io
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.prepare_data import main

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


def prepare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has loaded its libraries."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def picture(path: Path, seed: int) -> None:
    """An image of coarse shapes and finer texture, another for every seed."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)).resize((80, 60)) for n in (8, 32)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.blend(*layers, 0.5).save(path)
