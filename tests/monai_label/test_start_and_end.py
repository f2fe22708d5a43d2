# SPDX-License-Identifier: Apache-2.0
"""The server's start and end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

pytestmark = pytest.mark.label


def test_ctrl_c_ends_a_training_too_and_leaves_nothing(
    label_python: str, project: Path, tmp_path: Path, launch: Callable[..., Any]
) -> None:
    (tmp_path / "studies").mkdir()
    Image.fromarray(np.zeros((70, 104), np.uint8)).save(tmp_path / "studies/gray.png")
    with launch(label_python, project, tmp_path, "--app", "app") as server:
        (private,) = (tmp_path / "temporary").iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "app").stat().st_mode & 0o777 == 0o700
        listening = {c.laddr.ip for c in psutil.Process(server.process.pid).net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        server.start("scoring", simulation_size=3)
        end = time.monotonic() + 60
        while not (children := psutil.Process(server.process.pid).children(recursive=True)):
            assert time.monotonic() < end
            time.sleep(0.1)
        os.kill(server.process.pid, signal.SIGINT)
        assert server.process.wait(30) == 0
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        assert not list((tmp_path / "temporary").iterdir())
        assert {path.name for path in (tmp_path / "app/model").iterdir()} == {server.model, server.click_model}


@pytest.mark.parametrize("state", ["read only", "list of another version", "no weights"])
def test_start_that_fails_ends_with_a_line_that_says_what_to_do(
    label_python: str, project: Path, tmp_path: Path, state: str
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    words = [label_python, str(project / "scripts/label_server.py"), "--studies", str(studies), "--port", "0"]
    if state == "read only":
        message = f"error: {studies} must be a writable folder, got: "
        studies.chmod(0o555)
        if os.access(studies, os.W_OK):  # as root, who needs no permission unless it is taken away
            words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    elif state == "no weights":
        shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("*.pt", "runs"))
        words[1] = str(tmp_path / "copy/scripts/label_server.py")
        message = f"error: {tmp_path}/copy/models/model.pt must be the weights to serve, got no such file; copy weights"
    else:
        message = "error: MONAI Label did not start; the reason stands above, in its log."
        listed = {"name": "x", "description": "", "objects": {"a": {"image": {"ext": ".png", "info": 5}, "labels": {}}}}
        (studies / "datastore_v2.json").write_text(json.dumps(listed))
    environment = os.environ | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert not list(tmp_path.glob("ultrasound_label_*"))
