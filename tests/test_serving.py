# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch
from monai.transforms import Invertd
from PIL import Image

from bundle.networks.weights import load_network

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
    found = ConfigParser(ConfigParser.load_config_file(INFERENCE)).get_parsed_content("displayable_configs")
    assert {name: values[0] for name, values in found.items()} == dict.fromkeys(
        ("position", "nature", "task"), "unknown"
    )
    assert found["task"] == ["unknown", "segmentation", "classification"]
    assert "gallbladder" in found["position"]
    json.dumps(found)


def shared_config(folder: Path, **changes: Any) -> ConfigParser:
    """inference.yaml as the server holds it, with weights in ``folder``; of the network before any request."""
    parser = ConfigParser(ConfigParser.load_config_file(INFERENCE))
    parser.config |= {"bundle_root": str(INFERENCE.parents[1]), "ckpt_dir": str(folder)}
    parser.config["network_def"] |= changes
    return parser


def request(parser: ConfigParser, network: torch.nn.Module, image: Path, *, scoring: bool = False) -> dict[str, Any]:
    """What MONAI Label makes of an image; its scoring leaves out each ``Invertd``."""
    parser["displayable_configs"].update(position="unknown", nature="unknown", task="unknown")
    parser.parse()
    item = {"image": str(image), "image_path": str(image), "result_extension": ".png"}
    for step in parser.get_parsed_content("preprocessing").transforms:
        item = step(item)
    with torch.no_grad():
        item["pred"] = decollate_batch(parser.get_parsed_content("inferer")(item["image"][None], network))[0]
    for step in parser.get_parsed_content("postprocessing").transforms:
        item = item if scoring and isinstance(step, Invertd) else step(item)
    return item


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "gray.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 200, (70, 104), np.uint8)).save(path)
    return path


def test_scoring_sees_probabilities_that_differ_from_pass_to_pass(weights: Path, tmp_path: Path, picture: Path) -> None:
    shutil.copy(weights, tmp_path / "model.pt")
    parser = shared_config(tmp_path, dropout=0.2)
    network = parser.get_parsed_content("network_def")
    load_network(network, weights)
    first, again = (request(parser, network.train(), picture, scoring=True)["pred"] for _ in range(2))
    assert first.shape == (5, 224, 224)
    torch.testing.assert_close(first.sum(0), torch.ones(224, 224))
    assert not torch.equal(first, again)
    network.eval()
    first, again = (request(parser, network, picture, scoring=True)["pred"] for _ in range(2))
    assert torch.equal(first, again)


def test_a_request_goes_by_the_tables_of_the_weights_of_that_moment(
    weights: Path, tmp_path: Path, picture: Path
) -> None:
    shutil.copy(weights, tmp_path / "model.pt")
    parser = shared_config(tmp_path)
    network = parser.get_parsed_content("network_def").eval()
    load_network(network, weights)
    assert list(request(parser, network, picture)["result"]["areas"]) == ["lesion", "head", "nerve", "vessel"]
    content = torch.load(weights, weights_only=True)
    table = ConfigParser.load_config_file(INFERENCE.with_name("train.yaml"))["organs"]
    table["breast"]["structures"] = ["tumor"]
    names = ["background", "tumor", "head", "nerve", "vessel"]
    content["network_config"] |= {"organs": table, "image_size": 96, "structures": names}
    torch.save(content, tmp_path / "model.pt")
    item = request(parser, network, picture)
    assert list(item["result"]["areas"]) == ["tumor", "head", "nerve", "vessel"]
    assert item["image"].shape[1:] == (96, 96)
