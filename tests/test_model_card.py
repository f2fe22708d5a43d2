# SPDX-License-Identifier: Apache-2.0
"""What the model card says about Python and exports is so: its code and its commands run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow, load
from PIL import Image

from bundle.files import LEDGER
from bundle.networks import UPerConvNeXt
from bundle.networks.weights import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
CARD = (ROOT / "docs/README.md").read_text("utf-8")
INFERENCE = ROOT / "configs/inference.yaml"
NAME = "ultrasound_uperconvnext"


def build() -> UPerConvNeXt:
    network: UPerConvNeXt = ConfigParser(ConfigParser.load_config_file(INFERENCE)).get_parsed_content("network_def")
    return network.eval()


@pytest.fixture(scope="module")
def network() -> UPerConvNeXt:
    """The network of inference.yaml; its weights are random, also those that start at zero."""
    torch.manual_seed(0)
    network = build()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture(scope="module")
def bundles(network: UPerConvNeXt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``bundles`` with this bundle and those weights, as from a zip, and an image to predict beside it."""
    folder = tmp_path_factory.mktemp("above")
    bundle = folder / "bundles" / NAME
    bundle.mkdir(parents=True)
    for part in ("bundle", "configs"):
        (bundle / part).symlink_to(ROOT / part)
    save_checkpoint(bundle / "models/model.pt", model=network.state_dict(), network_config=network.network_config())
    (folder / "IMAGES").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 70), np.uint8)).save(folder / "IMAGES/a.png")
    return bundle.parent


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_python_code_predicts_and_loads_the_network(bundles: Path) -> None:
    code = re.findall(r"^```python\n(.*?)^```", CARD, re.MULTILINE | re.DOTALL)
    assert len(code) == 1
    ends = "import bundle\nprint(bundle.__file__, *logits.shape, workflow.check_properties())"
    last = run(bundles.parent, "-c", code[0] + ends).splitlines()[-1]
    assert last == f"{bundles / NAME / 'bundle/__init__.py'} 2 5 64 96 []"
    assert sorted(path.name for path in (bundles.parent / "output").iterdir()) == [
        LEDGER, "a_mask.png", "a_overlay.png", "predictions.csv", "predictions.json",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_load_does_what_the_card_says(network: UPerConvNeXt, bundles: Path) -> None:
    content = load(NAME, bundle_dir=bundles, workflow_type="inference")
    assert set(content) == {"model", "network_config"}
    other = build()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for key, expected in ((None, before), ("model", network.state_dict())):
        load(NAME, bundle_dir=bundles, model=other, device="cpu", key_in_ckpt=key)
        assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("files", "run_id"), [(["train"], "training"), (["train", "evaluate"], "evaluating")])
def test_create_workflow_takes_training_and_evaluation(
    bundles: Path, tiny_data: Path, tmp_path: Path, files: list[str], run_id: str
) -> None:
    workflow = create_workflow(
        config_file=[str(bundles / NAME / f"configs/{file}.yaml") for file in files],
        workflow_type="train", run_id=run_id, bundle_root=str(bundles / NAME), logging_file=False,
        dataset_dir=str(tiny_data), output_dir=str(tmp_path), num_workers=0,
    )  # fmt: skip
    assert workflow.check_properties() == []
    assert workflow.parser.get(run_id) is not None


def export(bundles: Path, tool: str) -> Path:
    """The file that the card's command writes, run in the bundle's folder."""
    found = re.findall(rf"^python (-m monai\.bundle {tool} .*)$", CARD, re.MULTILINE)
    assert len(found) == 1
    words = shlex.split(found[0])
    run(bundles / NAME, *words)
    return bundles / NAME / words[words.index("--filepath") + 1]


@pytest.mark.slow
def test_torchscript_gives_what_the_network_gives(network: UPerConvNeXt, bundles: Path) -> None:
    export(bundles, "ckpt_export")
    scripted, metadata, files = load(NAME, bundle_dir=bundles, load_ts_module=True, config_files=("inference.json",))
    assert metadata["name"] == NAME
    assert "network_def" in files["inference.json"].decode()
    for size in [(1, 5, 32, 32), (2, 3, 64, 96), (3, 5, 224, 160)]:
        image, prompt = torch.randn(size), torch.rand(size[0], network.prompt_length)
        with torch.no_grad():
            torch.testing.assert_close(scripted.eval()(image), network(image))
            torch.testing.assert_close(scripted.predict(image, prompt), network.predict(image, prompt))
    with pytest.raises(torch.jit.Error, match="multiples of 32"):
        scripted(torch.zeros(1, 5, 40, 64))


@pytest.mark.slow
def test_onnx_gives_what_the_network_gives_at_other_sizes_and_batches(network: UPerConvNeXt, bundles: Path) -> None:
    session = onnxruntime.InferenceSession(export(bundles, "onnx_export"), providers=["CPUExecutionProvider"])
    for size in [(1, 5, 32, 32), (2, 5, 64, 96), (3, 5, 224, 160), (1, 5, 32, 256)]:
        image = torch.randn(size)
        (logits,) = session.run(["pred"], {"image": image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(image), atol=1e-4, rtol=1e-3)
