# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from monai.bundle import run

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "encoder": "test_convnext",
    "teacher": "test_efficientnet",
    "image_size": 64,
    "batch_size": 4,
    "max_epochs": 2,
    "num_workers": 0,
    "num_threads": 1,
}


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's ``test_efficientnet``, as a file of it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(timm.create_model("test_efficientnet").state_dict(), path)
    return path


@pytest.fixture
def pretrain(tiny_data: Path, teacher_file: Path, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    threads = torch.get_num_threads()

    def call(name: str, **options: Any) -> Path:
        run(
            run_id="pretraining",
            bundle_root=str(tmp_path),
            dataset_dir=str(tiny_data),
            output_dir=str(tmp_path / name),
            **{
                "config_file": str(ROOT / "configs/pretrain.yaml"),
                **SMALL,
                "teacher_weights": str(teacher_file),
                **options,
            },
        )
        return tmp_path / name

    yield call
    torch.set_num_threads(threads)
