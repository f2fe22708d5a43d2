# SPDX-License-Identifier: Apache-2.0
"""Encoders of timm that are no ConvNeXt."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from bundle.engines import parameter_groups
from bundle.networks import ConvNeXtEncoder, PyramidEncoder, UPerConvNeXt, build_encoder
from bundle.networks.deployable import deployable
from bundle.pretraining.start import timm_encoder
from tests.networks.foreign_parts import ResNetEncoder

SMALL = ["test_resnet", "test_efficientnet"]
OTHERS = ["mobilenetv3_small_050", "edgenext_xx_small", "swin_tiny_patch4_window7_224"]
"""A stem without a bias, one that timm calls ``stem_0``, and maps whose channels are last."""


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_maps_are_timms_and_make_a_pyramid(name: str) -> None:
    torch.manual_seed(0)
    encoder = PyramidEncoder(name).eval()
    theirs = timm.create_model(name, pretrained=False).eval()
    theirs.load_state_dict(
        {**theirs.state_dict(), **{there: encoder.state_dict()[here] for here, there in encoder.timm_names().items()}}
    )
    image = torch.randn(1, 3, 224, 224)
    levels, feature = encoder(image)
    assert [tuple(level.shape) for level in levels] == [
        (1, c, 224 // s, 224 // s) for c, s in zip(encoder.channels, [4, 8, 16, 32], strict=True)
    ]
    expected = theirs.forward_intermediates(image, intermediates_only=True)
    fits = [level for level in expected if level.shape == levels[2].shape]
    torch.testing.assert_close(levels[2], fits[-1])
    torch.testing.assert_close(
        feature, torch.nn.functional.layer_norm(levels[3].mean((2, 3)), feature.shape[1:], eps=1e-6)
    )


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_guidance_changes_nothing_until_it_is_trained_and_then_does(name: str) -> None:
    encoder = PyramidEncoder(name, guidance_channels=2).eval()
    image, guidance = torch.randn(1, 3, 224, 224), torch.rand(1, 2, 224, 224)
    plain = encoder(image)[1]
    assert torch.equal(encoder(torch.cat([image, guidance], dim=1))[1], plain)
    [weight] = [p for name, p in encoder.named_parameters() if name.endswith(".guidance.weight")]
    torch.nn.init.normal_(weight)
    assert not torch.allclose(encoder(torch.cat([image, guidance], dim=1))[1], plain)


@pytest.mark.parametrize("name", [*SMALL, "convnext_atto"])
def test_what_a_pretraining_leaves_loads_here_and_in_timm(name: str, tmp_path: Path) -> None:
    encoder = build_encoder(name)
    state, config = timm_encoder(encoder, encoder.config()).values()
    torch.save({"model": state, "network_config": config}, tmp_path / "encoder.pt")
    torch.save(state, tmp_path / "state.pth")
    again = build_encoder(name, weights_file=str(tmp_path / "encoder.pt"), guidance_channels=2)
    names = again.timm_names()
    assert sorted(names.values()) == sorted(state)
    assert all(torch.equal(again.state_dict()[here], state[there]) for here, there in names.items())
    theirs = timm.create_model(name, num_classes=0, pretrained=False)
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys


def test_weights_in_timms_order_under_other_names_are_taken(tmp_path: Path) -> None:
    theirs = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    torch.save({f"tensor_{i}": value for i, value in enumerate(theirs.values())}, tmp_path / "ordered.pth")
    encoder = PyramidEncoder("test_efficientnet", weights_file=str(tmp_path / "ordered.pth"))
    assert all(torch.equal(encoder.state_dict()[h], theirs[t]) for h, t in encoder.timm_names().items())


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth must hold the \d+ tensors of encoder test_efficientnet; choose"):
        PyramidEncoder("test_efficientnet", weights_file=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_vit", "test_vit"),
        ("vit_base_patch16_224", "vit_base_patch16_224"),
        ("no_such_encoder", "one of timm's names"),
        ("hf_hub:timm/resnet18", "one of timm's names"),
    ],
)
def test_encoders_without_a_pyramid_say_so(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"encoder must .*{reason}"):
        build_encoder(name)


def test_an_encoder_that_takes_no_guidance_says_so() -> None:
    with pytest.raises(ValueError, match="guidance_channels must be 0 with encoder nf_resnet26"):
        build_encoder("nf_resnet26", guidance_channels=2)


def test_convnexts_stay_what_they_are() -> None:
    assert type(build_encoder("test_convnext")) is ConvNeXtEncoder


@pytest.mark.parametrize("name", SMALL)
def test_the_network_of_it_exports_and_knows_its_layers(make_network: Callable[..., UPerConvNeXt], name: str) -> None:
    network = make_network(encoder=name, guidance_channels=2).eval()
    image, prompt = torch.randn(1, 5, 64, 64), torch.rand(1, network.prompt_length)
    answers = network.predict(image, prompt)
    traced = torch.jit.trace(deployable(network), (image, prompt))
    for mine, theirs in zip(answers.values(), traced(image, prompt), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    groups = parameter_groups(network, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    rates: dict[str, float] = {n: scale[id(p)] for n, p in network.named_parameters()}
    first = min(rates.values())
    assert next(name for name, rate in rates.items() if rate == first).endswith((".image.weight", ".image.bias"))
    assert {
        rate for name, rate in rates.items() if not name.startswith("encoder.backbone") or ".guidance." in name
    } == {1}


def test_an_encoder_that_does_not_tell_its_layers_says_which_options_fit(
    make_network: Callable[..., UPerConvNeXt],
) -> None:
    parts = make_network()
    network = UPerConvNeXt(ResNetEncoder(), parts.decoder, parts.prompter, dict(parts.heads.items()))
    with pytest.raises(ValueError, match="got ResNetEncoder; set --layer_decay 1 and --unfreeze_share 0"):
        parameter_groups(network, weight_decay=0.1, layer_decay=0.5)
