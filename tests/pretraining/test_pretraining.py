# SPDX-License-Identifier: Apache-2.0
"""The shipped config pretrains, goes on after a stop to the bit, and training takes what it wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle.networks import UPerNetDecoder
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.weights import load_encoder
from bundle.pretraining.images import training_images

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_leaves_weights_that_timm_and_training_take(pretrain: Callable[..., Path]) -> None:
    folder = pretrain("run")
    assert [row.split(",")[0] for row in (folder / "metrics.csv").read_text().splitlines()] == ["epoch", "1", "2"]
    content = torch.load(folder / "encoder.pt", weights_only=True)
    assert content["network_config"]["encoder"] == "test_convnext"
    model = timm.create_model("test_convnext", num_classes=0, checkpoint_path=str(folder / "encoder.pt")).eval()
    encoder = ConvNeXtEncoder("test_convnext").eval()
    taken = load_encoder(encoder, name="test_convnext", path=folder / "encoder.pt")
    assert (taken.untouched, taken.ignored) == ([], [])
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        levels, feature = encoder(image)
        assert torch.allclose(model.forward_features(image), levels[3], atol=1e-5)
        assert torch.allclose(model(image), feature, atol=1e-3)  # timm's norm has another epsilon


def test_a_stopped_run_goes_on_to_the_bit(pretrain: Callable[..., Path]) -> None:
    whole = pretrain("whole", max_epochs=3)
    pretrain("stopped", **{"max_epochs": 3, "train#named_handlers#stop": STOP})
    again = pretrain("stopped", max_epochs=3, resume=True)
    one, other = (torch.load(folder / "encoder.pt", weights_only=True)["model"] for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


STOP = {"_target_": "tests.pretraining.test_pretraining.Stop"}


class Stop:
    """Ends a run after its first epoch."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), engine.terminate)


def test_another_teacher_does_not_go_on_with_a_run(
    pretrain: Callable[..., Path], teacher_file: Path, tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    pretrain("run")
    other = tmp_path / "other.pth"
    other.write_bytes(teacher_file.read_bytes())
    with pytest.raises(RuntimeError) as error:
        pretrain("run", resume=True, teacher_weights=str(other))
    assert f"teacher_weights: run has {teacher_file}, got {other}" in reasons(error.value)


def test_another_objective_does_not_go_on_with_a_run(
    pretrain: Callable[..., Path], reasons: Callable[[BaseException], str]
) -> None:
    masked = [str(ROOT / f"configs/{name}.yaml") for name in ("pretrain", "pretrain_masked")]
    pretrain("run", config_file=masked)
    with pytest.raises(RuntimeError) as error:
        pretrain("run", config_file=masked, resume=True, patch_ratio=0.75)
    assert "objectives#reconstruction#patch_ratio: run has 0.5, got 0.75" in reasons(error.value)
    with pytest.raises(RuntimeError) as error:
        pretrain("run", config_file=masked, patch_ratio=1.5)
    assert "--patch_ratio must be a number from 0 to 1, got 1.5" in reasons(error.value)


def test_images_of_validation_and_test_are_kept_out(tiny_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    with caplog.at_level("INFO"):
        items = training_images(tiny_data / "datalist.json")
    names = {Path(item["image"]).name for item in items}
    assert names == {Path(item["image"]).name for item in manifest["items"] if item["split"] == "train"}
    assert len(items) == 12
    assert "12 images to learn from" in caplog.text
    assert "8 of validation and test are kept out" in caplog.text


def test_objectives_are_a_block_of_the_config() -> None:
    parser = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs/pretrain.yaml")))
    assert list(parser["objectives"]) == ["distillation"]


def test_the_teacher_joins_another_objective(pretrain: Callable[..., Path]) -> None:
    names = ("pretrain", "pretrain_masked", "pretrain_and_distill")
    folder = pretrain("run", config_file=[str(ROOT / f"configs/{name}.yaml") for name in names], max_epochs=1)
    learned = torch.load(folder / "last.pt", weights_only=True)["network"]
    assert {name.split(".")[1] for name in learned if name.startswith("objectives.")} == {
        "reconstruction", "distillation",
    }  # fmt: skip


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_latent_prediction_goes_on_after_a_stop_to_the_bit(
    pretrain: Callable[..., Path], momentum: float | None
) -> None:
    latent = [str(ROOT / f"configs/{name}.yaml") for name in ("pretrain", "pretrain_latent")]
    options = {"config_file": latent, "momentum": momentum, "max_epochs": 2}
    whole = pretrain("whole", **options)
    pretrain("stopped", **options, **{"train#named_handlers#stop": STOP})
    again = pretrain("stopped", **options, resume=True)
    one, other = (torch.load(folder / "encoder.pt", weights_only=True)["model"] for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_reconstructions_lie_beside_their_originals_and_change_nothing(pretrain: Callable[..., Path]) -> None:
    masked = [str(ROOT / f"configs/{name}.yaml") for name in ("pretrain", "pretrain_masked")]
    folder = pretrain("run", config_file=masked)
    plain = pretrain("plain", config_file=masked, **{"train#named_handlers#reconstructions": "$None"})
    log = EventAccumulator(str(folder / "tensorboard")).Reload()
    [tag] = log.Tags()["images"]
    assert tag.startswith("reconstruction: original")
    image = log.Images(tag)[-1]
    assert (image.width, image.height, image.step) == (3 * 66 + 2, 4 * 66 + 2, 2)
    one, other = (torch.load(path / "encoder.pt", weights_only=True)["model"] for path in (folder, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_goes_on_with_the_decoder_that_filled_in(
    pretrain: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    masked = [str(ROOT / f"configs/{name}.yaml") for name in ("pretrain", "pretrain_masked")]
    path = pretrain("run", config_file=masked, max_epochs=1, decoder_channels=16, logging_file=False) / "encoder.pt"
    held = torch.load(path, weights_only=True)["decoder"]
    parser = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs/train.yaml")))
    parser.update({"encoder": "test_convnext", "decoder_channels": 16, "encoder_weights": str(path)})
    with caplog.at_level("INFO"):
        decoder = parser.get_parsed_content("network_def").decoder
    assert all(torch.equal(value, held[name]) for name, value in decoder.state_dict().items())
    assert f"the decoder starts from {path}: {len(held)} tensors" in caplog.text
    UPerNetDecoder(
        in_channels=ConvNeXtEncoder("test_convnext").channels, channels=24, norm="group", weights_file=str(path)
    )
    assert f"the decoder starts at random: that of {path} has another width" in caplog.text
    assert timm.create_model("test_convnext", num_classes=0, checkpoint_path=str(path))
