# SPDX-License-Identifier: Apache-2.0
"""The shipped train.yaml as MONAI Label runs it: equal requests are one training, one at a time."""

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.engines.saved_labels import serve


def test_equal_requests_are_one_training(
    train: Callable[..., str], studies: Path, served: Callable[[], bytes], tmp_path: Path
) -> None:
    first = train(studies)
    state, weights = (tmp_path / "run/last.pt").read_bytes(), served()
    second = train(studies)
    assert "epoch 1/1: loss" in first
    assert "epoch 1/1: loss" not in second
    assert (
        "nothing has changed since the last training, which is not repeated: no weights were served so far: the new "
        "weights are served"
    ) in second
    assert served() == weights
    (kept,) = (tmp_path / "run/previous").glob("*/last.pt")
    assert kept.read_bytes() == state
    assert "epoch 2/2: loss" in train(studies, epochs=2)  # another request


def test_a_repeated_request_says_where_the_new_weights_are_now(
    train: Callable[..., str], studies: Path, trained: Path, tmp_path: Path
) -> None:
    """The second start moves the files of the first aside."""

    def told(text: str) -> Path:
        found = re.search(r"the new ones are in (\S+), until the next training; to serve them: cp (\S+) (\S+)\n", text)
        assert found is not None, text
        assert found[1] == found[2]
        assert found[3] == str(tmp_path / "models/model.pt")
        return Path(found[1])

    serve(trained, tmp_path)
    alone = tmp_path / "alone"
    shutil.copytree(studies, alone)
    for label in sorted((alone / "labels/final").glob("*.png"))[1:]:
        label.unlink()
    first = told(train(alone, val=0))
    weights = first.read_bytes()
    for _ in range(2):
        again = train(alone, val=0)
        assert "which is not repeated: one label alone, none to compare weights on (save two or more)" in again
        assert told(again) != first
        assert told(again).read_bytes() == weights
    told(again).unlink()
    assert "the former weights stay served, the file of the new ones is gone\n" in train(alone, val=0)


def test_other_labels_or_weights_train_again(
    train: Callable[..., str], studies: Path, trained: Path, tmp_path: Path
) -> None:
    train(studies)
    copy = tmp_path / "copy"
    shutil.copytree(studies, copy)
    assert "epoch 1/1: loss" in train(copy)
    serve(trained, tmp_path)
    assert "epoch 1/1: loss" in train(copy)


def test_requests_are_compared_without_the_models_name(
    train: Callable[..., str], studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``POST /train/`` asks for every name of the bundle."""
    asked = []
    for model, run_id in (("bundle", "run"), ("bundle_deepedit", "run"), ("bundle", "training")):
        request = {"model": model, "bundle_path": f"/app/{model}", "run_id": run_id}
        monkeypatch.setattr(sys, "argv", ["app.py", "-m", "train", "-r", json.dumps(request)])
        asked.append("epoch 1/1: loss" in train(studies))
    assert asked == [True, False, True]


def test_a_training_waits_for_another_one(
    train: Callable[..., str], studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    locked = threading.Event()

    def other() -> None:
        with FileLock(tmp_path / "run/.saved_labels.lock"):
            locked.set()
            while "waits until it ends" not in caplog.text:
                time.sleep(0.1)

    end = threading.Thread(target=other, daemon=True)
    end.start()
    locked.wait()
    text = train(studies)
    end.join()
    assert f"another training on saved labels runs in {tmp_path}/run; this one waits until it ends" in text
    assert text.index("waits until it ends") < text.index("epoch 1/1: loss")
    with FileLock(tmp_path / "run/.saved_labels.lock", timeout=0):
        pass  # free again
