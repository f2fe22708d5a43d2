# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import timm
import torch


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's ``test_efficientnet``, as a file of it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(timm.create_model("test_efficientnet").state_dict(), path)
    return path
