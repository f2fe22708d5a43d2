# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest
import torch
from monai.data import MetaTensor

from bundle.engines import PrepareBatch, TrainingNetwork, prepare_evaluation, prepare_items
from bundle.engines.batches import autocast_dtype
from bundle.vocabulary import encode_prompt, switch
from tests.engines.small import POSITIONS, TASKS, make_network


def test_training_batch_is_split_into_image_targets_and_what_the_network_is_told() -> None:
    masks = {"label": torch.full((3, 1), 2.0), "labeled": torch.tensor([[True, False], [False] * 2, [False, True]])}
    targets = {"seg": masks, "cls_breast": torch.tensor([-1, 1, 0])}
    batch = {"image": torch.full((3, 1), 5.0), "prompt": torch.full((3, 1), 6.0), "targets": targets}
    image, target, args, kwargs = PrepareBatch(TASKS)({**batch, "dataset": ["a", "b", "c"]}, "cpu")
    assert torch.equal(image, batch["image"])
    assert list(target) == ["targets"]
    assert list(target["targets"]) == ["seg", "cls_breast"]
    assert all(torch.equal(target["targets"]["seg"][k], masks[k]) for k in ("label", "labeled"))
    assert torch.equal(target["targets"]["cls_breast"], targets["cls_breast"])
    assert args == ()
    assert list(kwargs) == ["prompt", "mapped"]
    assert torch.equal(kwargs["prompt"], batch["prompt"])
    assert kwargs["mapped"].tolist() == [True, False, True]  # those with a mask

    guided = torch.tensor([False, False, True])
    target = PrepareBatch(TASKS)({**batch, "guided": guided}, "cpu")[1]
    assert list(target) == ["targets", "guided"]
    assert torch.equal(target["guided"], guided)


def test_evaluation_batch_needs_neither_mask_nor_prompt() -> None:
    image = torch.zeros(1, 3, 32, 32)
    assert prepare_evaluation({"image": image}, "cpu")[1:] == (None, (), {})
    prepared = prepare_evaluation({"image": image, "label": "mask", "prompt": torch.ones(1, 4)}, "cpu")
    assert prepared[1] == "mask"
    assert torch.equal(prepared[3]["prompt"], torch.ones(1, 4))


def test_items_that_were_not_collated_are_stacked() -> None:
    items = [
        {"image": MetaTensor(torch.full((3, 4, 4), float(n)), meta={"name": "a" * n}), "prompt": torch.eye(5)[n]}
        for n in range(3)
    ]
    image, label, args, options = prepare_items(items, "cpu")
    assert type(image) is torch.Tensor
    assert image.mean((1, 2, 3)).tolist() == [0, 1, 2]
    assert (label, args, list(options)) == (None, (), ["prompt"])
    assert torch.equal(options["prompt"], torch.eye(5)[:3])


@pytest.mark.parametrize(("given", "value"), [(True, True), (False, False), ("true", True), ("False", False)])
def test_switches_of_the_command_line_are_read_as_bools(given: bool | str, value: bool) -> None:
    assert switch(given, "amp") is value


def test_a_switch_of_another_value_is_refused() -> None:
    with pytest.raises(ValueError, match="amp must be true or false, got 'off'; correct --amp"):
        TrainingNetwork(make_network(), device="cpu", amp="off")  # type: ignore[arg-type]


def test_without_amp_nothing_is_computed_in_reduced_precision() -> None:
    assert autocast_dtype(False, "cpu") is None
    network = TrainingNetwork(make_network(), device="cpu", amp="false")  # type: ignore[arg-type]
    assert {v.dtype for v in network(torch.rand(1, 3, 32, 32)).values()} == {torch.float32}


def test_a_cpu_that_is_held_to_avx2_computes_in_float32() -> None:
    code = "from bundle.engines import autocast_dtype; print(autocast_dtype(True, 'cpu'))"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None"]


def test_decoder_sees_the_samples_with_a_mask_alone() -> None:
    """Batch norm of the decoder is the same whatever images without a mask are in the batch."""
    image = torch.rand(4, 3, 64, 64)
    mapped = torch.tensor([True, False, True, False])
    outputs, means = [], []
    for others in (0.0, 5.0):
        image[~mapped] = others
        network = TrainingNetwork(make_network(norm="batch"), device="cpu", amp=False)
        outputs.append(network(image, None, mapped))
        means.append(network.network.decoder.fusion.norm.running_mean.clone())
    assert outputs[0]["seg"].shape == (2, 3, 64, 64)
    assert outputs[0]["cls_breast"].shape == (4, 2)
    torch.testing.assert_close(outputs[0]["seg"], outputs[1]["seg"])
    torch.testing.assert_close(means[0], means[1])


def test_a_batch_without_masks_has_no_segmentation() -> None:
    network = TrainingNetwork(make_network(), device="cpu", amp=False)
    outputs = network(torch.rand(2, 3, 64, 64), None, torch.zeros(2, dtype=torch.bool))
    assert outputs["seg"].shape == (0, 3, 64, 64)
    assert outputs["cls_breast"].shape == (2, 2)
    sum(logits.sum() for logits in outputs.values()).backward()
    got = {name.split(".")[0] for name, p in network.network.named_parameters() if p.grad is None}
    assert got == {"decoder", "heads", "prompter"}  # nothing of the masks moves, not even by weight decay
    assert network.network.heads["cls_breast"].linear.weight.grad is not None


def test_training_network_gives_what_the_network_predicts() -> None:
    network, image = make_network().eval(), torch.rand(2, 3, 64, 32)
    prompt = torch.tensor([encode_prompt({"position": p}, POSITIONS) for p in ("breast", "lung")])
    trained = TrainingNetwork(network, device="cpu", amp=False)(image, prompt)
    for name, value in network.predict(image, prompt).items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-4)
