# SPDX-License-Identifier: Apache-2.0
"""scripts/label_server.py in an environment without MONAI Label; tests/monai_label has one with it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--studies", "."], 1, "error: MONAI Label 0.8.5 must be installed in this Python, got none"),
        (["--studies", ".", "--port", "70000"], 2, "must be 0 (any free one) to 65535, got '70000'"),
        (["--studies", ".", "--host", "0.0.0.0"], 2, "must be one address of this machine, got 0.0.0.0"),
        (["--studies", ".", "--host", "example.org"], 2, "must be an IPv4 address, got 'example.org'"),
    ],
)
def test_start_that_fails_says_why(options: list[str], status: int, message: str, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts/label_server.py"), *options]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
