# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from bundle.networks.prompts import AdditivePrompt, FiLMPrompt, build_prompt


def test_additive_prompt_adds_gate_times_projection():
    module = AdditivePrompt(channels=2, prompt_length=3)
    with torch.no_grad():
        module.linear.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        module.linear.bias.copy_(torch.tensor([0.5, -0.5]))
        module.gate.fill_(2.0)
    prompt = torch.tensor([[0.0, 1.0, 0.0]])
    # 2 * (2 + .5) = 5 and 2 * (5 - .5) = 9
    assert torch.equal(module(torch.ones(1, 2), prompt), torch.tensor([[6.0, 10.0]]))
    assert torch.equal(module(torch.ones(1, 2, 3, 4), prompt)[0, :, 2, 3], torch.tensor([6.0, 10.0]))


def test_film_prompt_scales_and_shifts_each_channel():
    module = FiLMPrompt(channels=2, prompt_length=1)
    with torch.no_grad():
        module.linear.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))  # gamma 1, 2; beta 3, 4
    x = torch.tensor([[10.0, 100.0]])
    # 10 * (1 + 1) + 3 = 23 and 100 * (1 + 2) + 4 = 304
    assert module(x, torch.ones(1, 1)).tolist() == [[23.0, 304.0]]


@pytest.mark.parametrize("kind", ["film", "additive", "none"])
@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3, 5)])
def test_conditioning_is_the_identity_at_the_start(kind, shape):
    x = torch.randn(shape)
    assert torch.equal(build_prompt(kind, channels=4, prompt_length=6)(x, torch.rand(2, 6)), x)


def test_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match="conditioning must be film, additive or none, got 'cross'"):
        build_prompt("cross", channels=4, prompt_length=6)
