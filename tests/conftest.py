# SPDX-License-Identifier: Apache-2.0
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _strict_configs() -> Iterator[None]:
    """A key that is twice in a config is an error, also in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real ultrasound: ULTRASOUND_DATA, by default ../shared/ultrasound beside the repository."""
    folder = Path(os.environ.get("ULTRASOUND_DATA") or ROOT.parent / "shared" / "ultrasound")
    if not folder.is_dir():
        pytest.skip(f"no real ultrasound in {folder}; set ULTRASOUND_DATA to its folder")
    return folder
