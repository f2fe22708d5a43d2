# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from bundle.engines import Freezing
from bundle.networks import UPerConvNeXt
from tests.engines.small import make_network

PROMPTS = r"(?!prompter\.)"


def train(network: UPerConvNeXt, handler: Freezing, *, iterations: int = 2) -> list[set[str]]:
    """Trains on noise; names of the parameters that moved in each iteration."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    moved = []

    def step(engine: Engine, batch: Tensor) -> Tensor:
        network.train()
        before = {name: value.clone() for name, value in network.named_parameters()}
        logits = network.predict(batch, torch.rand(2, network.prompt_length))
        loss = torch.stack([value.float().square().mean() for value in logits.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        moved.append({name for name, value in network.named_parameters() if not torch.equal(value, before[name])})
        return loss.detach()

    engine = Engine(step)
    handler.attach(engine)
    engine.run([torch.randn(2, 3, 64, 64)] * iterations, max_epochs=1)
    return moved


def test_prompt_tuning_moves_prompts_alone_and_no_statistic_of_batch_norm() -> None:
    network = make_network(norm="batch", drop_path=0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert any("running_mean" in name for name in before)
    train(network, Freezing(network, frozen=PROMPTS))
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} == {"prompter"}


def test_frozen_parts_have_no_stochastic_depth() -> None:
    network = make_network(drop_path=0.9)
    Freezing(network, frozen=r"encoder\.")(Engine(lambda engine, batch: None))
    image = torch.randn(1, 3, 64, 64)
    network.train()
    first, again = (network.encoder(image)[1] for _ in range(2))
    assert torch.equal(first, again)
    assert network.prompter.training  # type: ignore[attr-defined]


def test_layers_begin_to_learn_from_the_last_to_the_first() -> None:
    network = make_network()
    moved = train(network, Freezing(network, unfreeze_share=0.5), iterations=20)
    parts = [{name.removeprefix("encoder.backbone.").split(".")[0] for name in names} for names in moved]
    begins = {
        part: next(i for i, learning in enumerate(parts) if part in learning)
        for part in ("decoder", "stages_3", "stages_2", "stages_1", "stages_0", "stem_0")
    }
    assert begins == {"decoder": 0, "stages_3": 2, "stages_2": 4, "stages_1": 6, "stages_0": 8, "stem_0": 10}


def test_unfrozen_layers_have_stochastic_depth_again() -> None:
    network = make_network(drop_path=0.9)
    train(network, Freezing(network, unfreeze_share=0.5), iterations=20)
    network.train()
    image = torch.randn(4, 3, 64, 64)
    first, again = (network.encoder(image)[1] for _ in range(2))
    assert not torch.equal(first, again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": "backbone"}, "which matches none"),
        ({"frozen": ""}, "which matches all"),
        ({"frozen": "encoder["}, "regular expression, got 'encoder\\['"),
        ({"unfreeze_share": 1.0}, r"share of the training in \[0, 1\), got 1.0"),
        ({"unfreeze_share": "half"}, "got 'half'"),
    ],
)
def test_what_cannot_be_frozen_is_refused(options: dict[str, str | float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Freezing(make_network(), **options)  # type: ignore[arg-type]
