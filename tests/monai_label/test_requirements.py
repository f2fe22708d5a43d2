# SPDX-License-Identifier: Apache-2.0
"""The two environments need the same packages."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_server_needs_what_the_project_needs() -> None:
    (listed,) = re.findall(
        r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    wanted = set(re.findall(r'"(.+)"', listed))
    given = [line for line in (ROOT / "requirements-label.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(wanted) > 20
    older = {"monailabel==0.8.5", "numpy>=1.26,<2", "pydicom>=2.4,<3"}
    assert set(given) == (wanted - {"numpy>=1.26", "pydicom>=2.4"}) | older
