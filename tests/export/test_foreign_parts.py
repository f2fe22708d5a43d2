# SPDX-License-Identifier: Apache-2.0
"""An encoder, a decoder and a head of others train, save, load, start others and export; bundle/ knows none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from torch import Tensor
from torch.utils.data import default_collate

from bundle.engines import TrainingNetwork
from bundle.engines.runtimes import SUFFIXES, ExportedNetwork
from bundle.export import Exporter, load_source
from bundle.networks import ConvNeXtEncoder, UPerConvNeXt
from bundle.networks.start import load_start
from bundle.networks.weights import load_network, save_checkpoint
from bundle.tasks import Targetsd
from bundle.tasks.targets import mapped
from tests.networks.foreign_parts import BrightnessHead

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "configs/train.yaml"
PARTS = "tests.networks.foreign_parts"
OVERLAY = {
    "guidance_channels": 0,
    "image_size": 64,
    "network_def#encoder": {"_target_": f"{PARTS}.ResNetEncoder"},
    "network_def#decoder": {"_target_": f"{PARTS}.FPN", "in_channels": "$@network_def#encoder.channels"},
}


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """The overlay that a user writes."""
    path = tmp_path / "foreign.yaml"
    path.write_text(yaml.safe_dump(OVERLAY))
    return path


def build(overlay: Path) -> tuple[ConfigParser, UPerConvNeXt]:
    torch.manual_seed(0)
    parser = ConfigParser(ConfigParser.load_config_files([str(TRAIN), str(overlay)]))
    return parser, parser.get_parsed_content("network_def")


def save(network: UPerConvNeXt, path: Path) -> Path:
    save_checkpoint(path, model=network.state_dict(), network_config=network.network_config())
    return path


def test_they_train(overlay: Path) -> None:
    parser, network = build(overlay)
    model, loss = TrainingNetwork(network, device="cpu", amp=False), parser.get_parsed_content("loss")
    labels = torch.randint(0, 5, (3, 64, 64))
    items = [
        {"label": labels[:1], "labeled": [True] * 5, "classes": {}},
        {"label": labels[1:2], "labeled": [False] * 5, "classes": {"breast": 1, "lung": 0}},
        {"label": labels[2:], "labeled": [False] * 5, "classes": {"gallbladder": 1}},
    ]
    tasks = parser.get_parsed_content("declared")
    targets = default_collate([Targetsd(tasks)(item)["targets"] for item in items])
    image, prompt = torch.rand(3, 3, 64, 64), torch.rand(3, network.prompt_length)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses: list[Tensor] = []
    for _ in range(2):
        outputs = model(image, prompt, mapped(tasks, targets, 3))
        assert outputs["seg"].shape == (1, 5, 64, 64)
        losses.append(loss(outputs, {"targets": targets}))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert network.decoder.laterals[0].weight.grad.abs().sum() > 0  # type: ignore[attr-defined]


def test_their_weights_fit_their_like_and_no_other(overlay: Path, tmp_path: Path) -> None:
    _, network = build(overlay)
    path = save(network, tmp_path / "model.pt")
    _, other = build(overlay)
    torch.nn.init.zeros_(other.heads["seg"].classifier.weight)
    config = load_network(other, path)
    assert config["parts"] == {
        "encoder": {"class": "ResNetEncoder", "encoder": "test_resnet"},
        "decoder": {"class": "FPN"},
        "prompter": {"class": "Prompter"},
    }
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    shipped = ConfigParser(ConfigParser.load_config_file(TRAIN)).get_parsed_content("network_def")
    for load in (load_network, load_start):
        with pytest.raises(
            ValueError,
            match=r"model\.pt was made with encoder .*ResNetEncoder.*, decoder FPN; this network has encoder "
            r"ConvNeXtEncoder, decoder UPerNetDecoder; build the network of the parts",
        ):
            load(shipped, path)


def test_a_new_head_starts_at_random_and_the_rest_from_weights_without_it(overlay: Path, tmp_path: Path) -> None:
    _, network = build(overlay)
    path = save(network, tmp_path / "model.pt")
    _, other = build(overlay)
    heads = {**other.heads, "brightness": BrightnessHead(8, 96)}
    more = UPerConvNeXt(other.encoder, other.decoder, other.prompter, heads).eval()
    before = more.heads["brightness"].linear.weight.clone()
    torch.nn.init.zeros_(more.heads["seg"].classifier.weight)
    with pytest.raises(
        ValueError,
        match=r"has heads .*'brightness': .*; add the block of a task .*train a network of these heads from it",
    ):
        load_network(more, path)
    assert "brightness: new 'brightness'" in load_start(more, path)
    assert torch.equal(more.heads["brightness"].linear.weight, before)
    image = torch.rand(2, 3, 64, 96)
    found, expected = more.predict(image), network.eval().predict(image)
    assert list(found) == [*expected, "brightness"]
    assert found["brightness"].shape == (2, 1)
    for name, logits in expected.items():
        assert torch.equal(found[name], logits), name
    assert more.network_config()["heads"]["brightness"] == ["brightness"]


def test_they_export(overlay: Path, tmp_path: Path) -> None:
    _, network = build(overlay)
    torch.nn.init.normal_(network.prompter.feature_prompt.linear.weight)  # type: ignore[attr-defined]
    source = load_source(save(network, tmp_path / "model.pt"), config_files=[TRAIN, overlay], workers=0)
    exporter = Exporter(source, output_dir=tmp_path / "out", threads=1)
    image, prompt = torch.rand(2, 3, 96, 64), torch.rand(2, network.prompt_length)
    with torch.no_grad():
        expected = source.network.predict(image, prompt)
        torch.testing.assert_close(torch.jit.script(source.network).predict(image, prompt), expected)
    for kind, suffix in SUFFIXES.items():
        assert not exporter.export(kind, "float32").error
        found = ExportedNetwork(tmp_path / "out" / f"model_float32{suffix}", threads=1).predict(image, prompt)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_part_that_lacks_something_is_named() -> None:
    with pytest.raises(ValueError, match="decoder must have channels, got Identity without channels; see bundle/netw"):
        UPerConvNeXt(ConvNeXtEncoder("test_convnext"), torch.nn.Identity(), torch.nn.Identity(), {})  # type: ignore[arg-type]
