# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch

from bundle.networks import build_uperconvnext
from bundle.networks.conversion import AUTHORS_NETWORK
from bundle.vocabulary import PAPER_POSITIONS, encode_prompt


def test_papers_network_has_31118995_parameters():
    network = build_uperconvnext(**AUTHORS_NETWORK, conditioning="additive")
    assert sum(p.numel() for p in network.parameters()) == 31_118_995


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_all_heads_at_sizes_that_are_multiples_of_32(make_network, size):
    network = make_network().eval()
    image = torch.randn(2, 3, *size)
    logits = network.predict(image)
    assert {k: tuple(v.shape) for k, v in logits.items()} == {
        "seg": (2, 3, *size),
        "cls_breast": (2, 3),
        "cls_lung": (2, 2),
    }
    assert torch.equal(network(image), logits["seg"])


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_batch_of_one_trains(make_network, norm, size):
    network = make_network(norm=norm, dropout=0.2, drop_path=0.1).train()
    logits = network.predict(torch.randn(1, 3, *size))
    sum(v.square().mean() for v in logits.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("conditioning", ["film", "additive", "none"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_parameter_gets_a_gradient(make_network, conditioning, norm):
    network = make_network(awake=True, conditioning=conditioning, norm=norm).train()
    logits = network.predict(torch.randn(2, 3, 64, 96), torch.rand(2, 15))
    sum((v * torch.randn_like(v)).sum() for v in logits.values()).backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("conditioning", ["film", "additive"])
def test_fresh_prompts_change_nothing(make_network, conditioning):
    plain, prompted = make_network(conditioning="none").eval(), make_network(conditioning=conditioning).eval()
    missing = prompted.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all("prompt" in name for name in missing)
    image, prompt = torch.randn(2, 3, 64, 96), torch.rand(2, 15)
    for name, logits in plain.predict(image).items():
        assert torch.equal(prompted.predict(image, prompt)[name], logits), name


@pytest.mark.parametrize("conditioning", ["film", "additive"])
def test_prompt_acts_on_its_own_image_and_all_heads(make_network, conditioning):
    network = make_network(awake=True, conditioning=conditioning).eval()
    image = torch.randn(1, 3, 64, 96).expand(2, -1, -1, -1)
    neutral = encode_prompt({}, PAPER_POSITIONS)
    breast = encode_prompt({"position": "breast"}, PAPER_POSITIONS)
    logits = network.predict(image, torch.tensor([neutral, breast]))
    for name, expected in network.predict(image).items():  # no prompt is the neutral prompt
        torch.testing.assert_close(logits[name][0], expected[0], msg=name)
        assert not torch.allclose(logits[name][1], expected[1], atol=1e-3), name


def test_network_without_prompts_has_no_prompt_parameters(make_network):
    network = make_network(conditioning="none")
    assert not [n for n in network.state_dict() if "prompt" in n]
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval()(image, torch.rand(2, 15)), network(image))


def test_state_dict_round_trip(make_network):
    network, other = make_network(awake=True).eval(), make_network().eval()
    image = torch.randn(1, 3, 64, 32)
    assert not torch.equal(network(image, torch.ones(1, 15)), other(image, torch.ones(1, 15)))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(image, torch.ones(1, 15)), other(image, torch.ones(1, 15)))
    assert torch.equal(copy.deepcopy(network)(image), network(image))


def test_network_config_rebuilds_the_network(make_network):
    network = make_network(norm="batch", conditioning="additive")
    config = {name: value for name, value in network.network_config().items() if name not in ("heads", "parts")}
    build_uperconvnext(**config).load_state_dict(network.state_dict())


def test_dropout_acts_in_train_mode_on_both_tasks(make_network):
    network = make_network(dropout=0.5).train()
    levels, feature, plain = network.encode(torch.randn(1, 3, 64, 64))
    fine = network.decode(levels)
    first, again = network.answer(fine, feature, plain), network.answer(fine, feature, plain)
    for name in ("seg", "cls_lung"):
        assert not torch.equal(first[name], again[name])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 250, 224), "^image height and width must be multiples of 32, got 250x224; pad to 256x224.$"),
        ((1, 3, 64, 1), "got 64x1; pad to 64x32.$"),
        ((1, 1, 64, 64), r"image must have shape \(batch, 3, height, width\), got \[1, 1, 64, 64\]"),
        ((3, 64, 64), r"image must have shape \(batch, 3, height, width\), got \[3, 64, 64\]"),
    ],
)
def test_images_of_other_shapes_are_refused(make_network, shape, message):
    with pytest.raises(ValueError, match=message):
        make_network()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 14), (1, 15), (15,)])
def test_prompts_of_other_shapes_are_refused(make_network, shape):
    with pytest.raises(ValueError, match=r"prompt must have shape \(batch, values\) = \(2, 15\), got \["):
        make_network()(torch.zeros(2, 3, 32, 32), torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structures": ["background"]}, "background and at least one other"),
        ({"structures": ["background", "head", "head"]}, "structures must be unique"),
        ({"label_sets": {"covid-19": ["no", "yes"]}}, "letters, digits and underscores, got 'covid-19'"),
        ({"label_sets": {"lung": ["healthy"]}}, "'lung' must have two or more different classes"),
        ({"positions": ["breast"]}, "must hold the neutral value 'indis'"),
    ],
)
def test_unusable_tables_are_refused(make_network, changes, message):
    with pytest.raises(ValueError, match=message):
        make_network(**changes)
