# SPDX-License-Identifier: Apache-2.0
import os
import pickle
import re
import stat

import pytest
import torch
from safetensors.torch import save_file

from bundle import __version__
from bundle.files import LEDGER, OutputFolder
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.start import load_start
from bundle.networks.weights import load_network, read_checkpoint, read_file, save_checkpoint


@pytest.fixture
def checkpoint(make_network, tmp_path):
    network = make_network()
    save_checkpoint(tmp_path / "model.pt", model=network.state_dict(), network_config=network.network_config())
    return tmp_path / "model.pt"


def test_checkpoint_round_trip(make_network, checkpoint):
    network, other = make_network(), make_network()
    torch.nn.init.zeros_(other.heads["seg"].refine.weight)
    config = load_network(other, checkpoint)
    assert config == {**network.network_config(), "version": __version__}
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_weights_without_guidance_fit_a_network_with_it(make_network, checkpoint):
    plain, guided = make_network().eval(), make_network(guidance_channels=2).eval()
    torch.nn.init.normal_(guided.encoder.backbone.stem_0.guidance.weight)
    config = load_network(guided, checkpoint)
    assert config == {**guided.network_config(), "version": __version__}
    image, guidance, prompt = torch.randn(2, 3, 64, 96), torch.rand(2, 2, 64, 96), torch.rand(2, 15)
    expected = plain.predict(image, prompt)
    for given in (image, torch.cat([image, 0 * guidance], 1), torch.cat([image, guidance], 1)):
        for name, value in guided.predict(given, prompt).items():
            assert torch.equal(value, expected[name]), name
    torch.nn.init.normal_(guided.encoder.backbone.stem_0.guidance.weight)
    for name, value in guided.predict(torch.cat([image, guidance], 1), prompt).items():
        assert not torch.equal(value, expected[name]), name
    assert torch.equal(guided.predict(torch.cat([image, 0 * guidance], 1), prompt)["seg"], expected["seg"])


@pytest.mark.parametrize("guidance_channels", [0, 2])
def test_weights_from_before_guidance_fit(make_network, checkpoint, guidance_channels):
    content = torch.load(checkpoint, weights_only=True)
    del content["network_config"]["guidance_channels"]
    torch.save(content, checkpoint)
    network = make_network(guidance_channels=guidance_channels)
    assert load_network(network, checkpoint)["guidance_channels"] == guidance_channels


def test_weights_with_guidance_are_taken_whole_or_refused(make_network, tmp_path):
    network = make_network(guidance_channels=2)
    torch.nn.init.normal_(network.encoder.backbone.stem_0.guidance.weight)
    save_checkpoint(tmp_path / "model.pt", model=network.state_dict(), network_config=network.network_config())
    other = make_network(guidance_channels=2)
    load_network(other, tmp_path / "model.pt")
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    with pytest.raises(
        ValueError, match="made with guidance_channels 2; this network has guidance_channels 0; use --g"
    ):
        load_network(make_network(), tmp_path / "model.pt")


def test_failed_save_keeps_the_former_file(checkpoint):
    OutputFolder(checkpoint.parent).adopt("model.pt")
    before = checkpoint.read_bytes()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="pickle"):
        save_checkpoint(checkpoint, model={"weight": lambda: 0}, network_config={})
    assert checkpoint.read_bytes() == before
    assert sorted(os.listdir(checkpoint.parent)) == [LEDGER, "model.pt"]
    assert stat.S_IMODE(checkpoint.stat().st_mode) == 0o644


def test_a_file_of_others_is_kept(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"model\.pt: expected a free name .*choose another name"):
        save_checkpoint(tmp_path / "model.pt", model={}, network_config={})
    assert (tmp_path / "model.pt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "test_convnext2", "decoder_channels": 24},
            "model.pt was made with encoder test_convnext, decoder width 16; this network has encoder test_convnext2, "
            "decoder width 24; use --encoder test_convnext --decoder_channels 16, or other weights",
        ),
        ({"structures": ["background", "lesion", "nerve"]}, r"made with structures \['background', 'lesion', 'head'\]"),
        ({"label_sets": {"breast": ["normal", "benign", "malignant"]}}, "made with label sets {'breast': .*'lung': "),
        ({"positions": ["breast", "indis"]}, r"made with positions .* use --organs '\{"),
        ({"conditioning": "none"}, "made with conditioning film; .* use --conditioning film"),
        ({"norm": "batch"}, "made with norm group; this network has norm batch"),
        ({"pooling": "avg"}, "made with pooling avgmax; this network has pooling avg; use --pooling avgmax"),
    ],
)
def test_checkpoints_of_other_networks_are_refused(make_network, checkpoint, changes, message):
    with pytest.raises(ValueError, match=message):
        load_network(make_network(**changes), checkpoint)


def test_damaged_tensors_are_refused_and_the_network_stays(make_network, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["heads.seg.refine.bias"] = torch.ones(7)
    content["model"]["surplus"] = torch.ones(1)
    torch.save(content, checkpoint)
    network = make_network()
    torch.nn.init.ones_(network.heads["seg"].classifier.bias)
    with pytest.raises(ValueError, match=r"2 tensors differ: heads.seg.refine.bias is .7. in the file, expected \[3\]"):
        load_network(network, checkpoint)
    assert network.heads["seg"].classifier.bias.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(make_network, checkpoint, value):
    content = torch.load(checkpoint, weights_only=True)
    name = list(content["model"])[-1]
    content["model"][name].view(-1)[0] = value
    torch.save(content, checkpoint)
    for load in (load_network, load_start):
        message = rf"model\.pt: weights must be finite in float32, got NaN or infinite values in {re.escape(name)}; use"
        with pytest.raises(ValueError, match=message):
            load(make_network(), checkpoint)


def test_missing_file_and_folder_are_refused(make_network, tmp_path):
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"got {path}, which is none"):
            load_network(make_network(), path)


def test_files_of_other_projects_are_refused(make_network, tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "raw.pt")
    with pytest.raises(ValueError, match=r"raw.pt must hold 'model' and 'network_config'.*convert_checkpoint.py"):
        load_network(make_network(), tmp_path / "raw.pt")


def test_an_encoder_alone_is_refused_as_a_network(make_network, tmp_path):
    save_checkpoint(tmp_path / "start.pt", model={}, network_config={"encoder": "convnext_atto"})
    with pytest.raises(ValueError, match="got the encoder convnext_atto alone; give it as encoder_weights"):
        load_network(make_network(), tmp_path / "start.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_files_that_are_no_checkpoint_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} must be a checkpoint .* got a truncated or different file"):
        read_file(tmp_path / name)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_truncated_checkpoint_is_refused(checkpoint, part):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match="got a truncated or different file"):
        read_file(checkpoint)


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_payload_is_refused_and_not_executed(make_network, tmp_path, writer):
    content = {"model": {"weight": Payload(tmp_path / "executed")}, "network_config": {}}
    with open(tmp_path / "model.pt", "wb") as file:
        torch.save(content, file) if writer == "torch" else pickle.dump(content, file)
    with pytest.raises(ValueError, match=r"got pickled Python objects.*refused, nothing in it was executed"):
        load_network(make_network(), tmp_path / "model.pt")
    assert not (tmp_path / "executed").exists()


def test_encoder_starts_from_a_whole_checkpoint(make_network, checkpoint):
    encoder = ConvNeXtEncoder("test_convnext", weights_file=str(checkpoint))
    for name, value in make_network().encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name


def test_guided_encoder_starts_blind_from_weights_without_guidance(make_network, checkpoint):
    encoder = make_network(guidance_channels=2, encoder_weights=str(checkpoint)).encoder.eval()
    plain, image = make_network().encoder.eval(), torch.randn(1, 3, 64, 64)
    assert torch.equal(encoder(torch.cat([image, torch.rand(1, 2, 64, 64)], 1))[1], plain(image)[1])


def test_guided_encoder_starts_from_its_like(make_network, tmp_path):
    network = make_network(guidance_channels=2)
    torch.nn.init.normal_(network.encoder.backbone.stem_0.guidance.weight)
    save_checkpoint(tmp_path / "model.pt", model=network.state_dict(), network_config=network.network_config())
    start = str(tmp_path / "model.pt")
    encoder = ConvNeXtEncoder("test_convnext", guidance_channels=2, weights_file=start)
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name
    plain = ConvNeXtEncoder("test_convnext", weights_file=start).state_dict()
    for name, value in plain.items():
        assert torch.equal(network.encoder.state_dict()[name], value), name
    assert set(network.encoder.state_dict()) - set(plain) == {"backbone.stem_0.guidance.weight"}


def test_encoder_starts_from_safetensors(make_network, tmp_path):
    state = make_network().encoder.state_dict()
    save_file({f"encoder.{n}": v for n, v in state.items()}, tmp_path / "start.safetensors")
    network = make_network(encoder_weights=str(tmp_path / "start.safetensors"), label_sets={})
    assert torch.equal(network.encoder.backbone.stem_0.weight, state["backbone.stem_0.weight"])


def test_weights_of_another_encoder_are_refused(checkpoint):
    with pytest.raises(ValueError, match="made with encoder test_convnext; this one is convnext_atto; use --encoder"):
        ConvNeXtEncoder("convnext_atto", weights_file=str(checkpoint))


def test_the_state_of_a_run_is_told_from_weights(make_network, tmp_path):
    state = {key: {} for key in ("network", "average", "optimizer", "lr_scheduler")} | {"epoch": 1}
    torch.save(state, tmp_path / "last.pt")
    for load in (
        lambda path: load_network(make_network(), path),
        lambda path: ConvNeXtEncoder("test_convnext", weights_file=str(path)),
    ):
        with pytest.raises(
            ValueError, match=r"last\.pt must hold weights, got the state that a run resumes from; give"
        ):
            load(tmp_path / "last.pt")


@pytest.mark.parametrize("suffix", [".ts", ".onnx", ".xml"])
def test_an_exported_model_is_told_from_weights(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"PK")
    with pytest.raises(ValueError, match=rf"model\{suffix} must be a checkpoint .* got an exported model; run it with"):
        read_file(tmp_path / f"model{suffix}")


def test_a_small_file_that_names_a_huge_encoder_is_refused_before_it_is_built(make_network, tmp_path):
    network = make_network()
    config = {**network.network_config(), "encoder": "convnext_xxlarge"}
    save_checkpoint(tmp_path / "model.pt", model=network.state_dict(), network_config=config)
    with pytest.raises(ValueError, match=r"model\.pt: expected the 8\d+ numbers of the encoder convnext_xxlarge, got"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_network_of_the_authors_is_no_encoder(tmp_path):
    torch.save({"model": {"backbone.downsample_layers.0.0.weight": torch.zeros(96, 3, 4, 4)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt must hold an encoder, got a whole network of the paper's authors"):
        ConvNeXtEncoder("test_convnext", weights_file=str(tmp_path / "a.pt"))
