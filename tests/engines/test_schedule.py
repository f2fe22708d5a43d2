# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from bundle.engines import parameter_groups, warmup_polynomial
from tests.engines.small import make_network


def factors(*, iterations: int, epochs: int, warmup_epochs: float) -> list[float]:
    """Learning rate of each step of a training whose peak is 1, and of the step after it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_polynomial(optimizer, loader=range(iterations), epochs=epochs, warmup_epochs=warmup_epochs)
    rates = []
    for _ in range(iterations * epochs + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def test_linear_warm_up_then_polynomial_decay_to_zero() -> None:
    rates = factors(iterations=4, epochs=10, warmup_epochs=1)
    assert rates[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    assert rates[22] == pytest.approx(0.5**0.9)  # half of the 36 steps after the warm-up
    assert rates[40] == 0
    assert rates[39] == pytest.approx((1 / 36) ** 0.9)


def test_warm_up_takes_a_tenth_of_a_short_training_at_most() -> None:
    assert factors(iterations=10, epochs=2, warmup_epochs=1)[:3] == pytest.approx([1 / 3, 2 / 3, 1])


def test_no_warm_up() -> None:
    assert factors(iterations=2, epochs=1, warmup_epochs=0) == pytest.approx([1, 0.5**0.9, 0])


def test_layer_decay_lowers_the_rates_from_the_last_layer_to_the_first() -> None:
    network = make_network(guidance_channels=2)
    groups = parameter_groups(network, weight_decay=0.1, layer_decay=0.5)
    optimizer = torch.optim.AdamW(groups, lr=2.0)
    warmup_polynomial(optimizer, loader=range(2), epochs=1, warmup_epochs=0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rate = {name: rates[id(parameter)] for name, parameter in network.named_parameters()}
    blocks = sorted({tuple(name.split(".")[2:5:2]) for name in rate if ".blocks." in name})
    assert {rate[name] for name in rate if not name.startswith("encoder.")} == {2.0}
    assert rate["encoder.norm.weight"] == rate["encoder.backbone.stem_0.guidance.weight"] == 2.0
    for depth, (stage, block) in enumerate(reversed(blocks), start=1):
        assert rate[f"encoder.backbone.{stage}.blocks.{block}.conv_dw.weight"] == pytest.approx(2.0 * 0.5**depth)
    assert rate["encoder.backbone.stem_0.weight"] == pytest.approx(2.0 * 0.5 ** (len(blocks) + 1))
    assert rate["encoder.backbone.stages_1.downsample.1.weight"] == rate["encoder.backbone.stages_1.blocks.0.norm.bias"]


def test_groups_hold_every_parameter_once_and_spare_biases_of_weight_decay() -> None:
    network = make_network()
    for layer_decay in (1.0, 0.8):
        groups = parameter_groups(network, weight_decay=0.1, layer_decay=layer_decay)
        held = [parameter for group in groups for parameter in group["params"]]
        assert len(held) == len({id(p) for p in held}) == len(list(network.parameters()))
        assert all((group["weight_decay"] > 0) == (p.ndim > 1) for group in groups for p in group["params"])


def test_layer_decay_out_of_range_or_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer_decay must be above 0 and at most 1, got 1\.5"):
        parameter_groups(make_network(), weight_decay=0.1, layer_decay=1.5)
    with pytest.raises(ValueError, match="layer_decay needs a network with group_matcher, got Linear; set it to 1"):
        parameter_groups(torch.nn.Linear(1, 1), weight_decay=0.1, layer_decay=0.5)
