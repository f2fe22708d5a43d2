# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest

INFERENCE = Path(__file__).resolve().parents[1] / "configs/inference.yaml"
PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from monai.bundle import ConfigParser

parser = ConfigParser(ConfigParser.load_config_file(sys.argv[1]))
if sys.argv[2] == "choices":
    parser.get_parsed_content("displayable_configs")

def request(number):
    parser["displayable_configs"].update(position="breast")
    parser.parse()
    return len(parser.get_parsed_content("preprocessing").transforms)

with ThreadPoolExecutor(4) as threads:
    print(set(threads.map(request, range(60))))
"""


def requests(choices: str) -> "subprocess.CompletedProcess[str]":
    """Sixty requests on four threads, as MONAI Label's scoring makes them, in a process of their own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(INFERENCE), choices],
        cwd=INFERENCE.parents[1], capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("run", range(2))
def test_threads_of_the_server_may_share_a_config(run: int) -> None:
    done = requests("choices")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(",") == 0, "all requests must get the same transforms"


def test_choices_start_with_unknown() -> None:
    from monai.bundle import ConfigParser

    found = ConfigParser(ConfigParser.load_config_file(INFERENCE)).get_parsed_content("displayable_configs")
    assert {name: values[0] for name, values in found.items()} == dict.fromkeys(
        ("position", "nature", "task"), "unknown"
    )
    assert found["task"] == ["unknown", "segmentation", "classification"]
    assert "gallbladder" in found["position"]
    json.dumps(found)
