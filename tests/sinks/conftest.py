# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from bundle.geometry import Geometry
from bundle.sinks import Answers, Masks, Overlays, PredictionWriter, Sink, Tables
from bundle.tasks import Asked, Records, class_tasks
from bundle.tasks import Masks as MaskTask
from bundle.tasks.masks import FoundMasks
from bundle.vocabulary import Organs

ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"], "classes": ["normal", "benign", "malignant"]},
        "head": {"structures": ["head"]},
        "lung": {"classes": ["healthy", "pneumonia"]},
        "indis": {},
    }
)
TASKS = [MaskTask(ORGANS), *class_tasks(ORGANS)]
RECORDS = Records(TASKS)


@pytest.fixture
def writer(tmp_path: Path) -> Callable[..., PredictionWriter]:
    """Gives a handler that writes masks, overlays, tables, and what other sinks do, to the folder ``out``."""

    def make(*, answers: Answers | None = None, **sinks: Sink) -> PredictionWriter:
        (tmp_path / "model.pt").write_bytes(b"weights")
        return PredictionWriter(
            output_dir=str(tmp_path / "out"),
            sinks={"mask": Masks(), "overlay": Overlays(TASKS), **sinks, "tables": Tables()},
            answers=answers or RECORDS,
            weights=str(tmp_path / "model.pt"),
            runtime="torch",
        )

    return make


@pytest.fixture
def item(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Gives an image of 6 rows and 9 columns whose mask has 3 pixels of lesion and 4 of head."""

    def make(
        file: str, *, mask: torch.Tensor | None = None, probability_maps: torch.Tensor | None = None, **changes: Any
    ) -> dict[str, Any]:
        path = tmp_path / "in" / file
        if mask is None:
            mask = torch.zeros(1, 6, 9, dtype=torch.uint8)
            mask[0, 0, 1:4], mask[0, 5, 5:] = 1, 2
        found = {
            "image": MetaTensor(torch.zeros(3, 8, 8), meta={"filename_or_obj": str(path)}),
            "pred": MetaTensor(mask),
            "spacing": torch.tensor([0.5, 0.2], dtype=torch.float64),
            "position": "unknown",
            "nature": "unknown",
            "task": "unknown",
            "error": "",
            "picture": np.full((6, 9, 1), 100, np.uint8),
            "place": 0,
            "file": file,
            "output": str(Path(file).with_suffix("")),
            **changes,
        }
        place = Geometry((mask.shape[1], mask.shape[2]), 8, tuple(found["spacing"].tolist()))
        asked = Asked(found["position"])
        values = {"cls_breast": torch.tensor([0.1, 0.2, 0.7]), "cls_lung": torch.tensor([0.75, 0.25])}
        classes = {task.name: task.decode(values, place, asked) for task in TASKS[1:]}
        maps = None if probability_maps is None else lambda: probability_maps
        found |= {"geometry": place, "asked": asked, "found": {"seg": FoundMasks(mask[0], maps), **classes}}
        return {**RECORDS(found), "pred": mask[0].T}  # as MONAI Label's studies lie

    return make


@pytest.fixture
def run() -> Callable[..., None]:
    """Runs an engine whose output is one written item after the other."""

    def start(handler: PredictionWriter, *items: dict[str, Any], fails: bool = False) -> None:
        engine = Engine(lambda _, batch: [handler(one) for one in batch])
        handler.attach(engine)
        with pytest.raises(SystemExit, match="1") if fails else nullcontext():
            engine.run([[one] for one in items])

    return start
