# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from bundle.engines import PromptedInferer, TrainingNetwork, prepare_batch, prepare_evaluation
from bundle.engines.batches import autocast_dtype
from bundle.networks import UPerConvNeXt
from bundle.vocabulary import encode_prompt, switch

POSITIONS = ["breast", "lung", "indis"]
STRUCTURES = ["background", "lesion", "nerve"]


def make_network(**changes: Any) -> UPerConvNeXt:
    torch.manual_seed(0)
    options = {
        "encoder": "test_convnext",
        "decoder_channels": 16,
        "structures": STRUCTURES,
        "label_sets": {"breast": ["normal", "malignant"]},
        "positions": POSITIONS,
    }
    return UPerConvNeXt(**{**options, **changes})


def test_training_batch_is_split_into_image_targets_and_what_the_network_is_told() -> None:
    batch = {k: torch.full((2, 1), i) for i, k in enumerate(("image", "label", "labeled", "cls", "prompt"))}
    image, targets, args, kwargs = prepare_batch({**batch, "dataset": ["a", "b"]}, "cpu")
    assert image is not None
    assert torch.equal(image, batch["image"])
    assert list(targets) == ["label", "labeled", "cls"]
    assert all(torch.equal(targets[k], batch[k]) for k in targets)
    assert args == ()
    assert list(kwargs) == ["prompt", "labeled"]


def test_evaluation_batch_needs_neither_mask_nor_prompt() -> None:
    image = torch.zeros(1, 3, 32, 32)
    assert prepare_evaluation({"image": image}, "cpu")[1:] == (None, (), {})
    prepared = prepare_evaluation({"image": image, "label": "mask", "prompt": torch.ones(1, 4)}, "cpu")
    assert prepared[1] == "mask"
    assert torch.equal(prepared[3]["prompt"], torch.ones(1, 4))


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


def test_decoder_sees_the_samples_with_a_mask_alone() -> None:
    """Batch norm of the decoder is the same whatever images without a mask are in the batch."""
    image = torch.rand(4, 3, 64, 64)
    labeled = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]]).bool()
    outputs, means = [], []
    for others in (0.0, 5.0):
        image[~labeled.any(1)] = others
        network = TrainingNetwork(make_network(norm="batch"), device="cpu", amp=False)
        outputs.append(network(image, None, labeled))
        means.append(network.network.decoder.fusion.norm.running_mean.clone())
    assert outputs[0]["seg"].shape == (2, 3, 64, 64)
    assert outputs[0]["cls_breast"].shape == (4, 2)
    torch.testing.assert_close(outputs[0]["seg"], outputs[1]["seg"])
    torch.testing.assert_close(means[0], means[1])


def test_a_batch_without_masks_has_no_segmentation() -> None:
    network = TrainingNetwork(make_network(), device="cpu", amp=False)
    outputs = network(torch.rand(2, 3, 64, 64), None, torch.zeros(2, 3, dtype=torch.bool))
    assert outputs["seg"].shape == (0, 3, 64, 64)
    assert outputs["cls_breast"].shape == (2, 2)


def test_training_network_gives_what_the_network_predicts() -> None:
    network, image = make_network().eval(), torch.rand(2, 3, 64, 32)
    prompt = torch.tensor([encode_prompt({"position": p}, POSITIONS) for p in ("breast", "lung")])
    trained = TrainingNetwork(network, device="cpu", amp=False)(image, prompt)
    for name, value in network.predict(image, prompt).items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-4)


def inferer() -> PromptedInferer:
    return PromptedInferer(STRUCTURES, POSITIONS, organ_structures={"breast": ["lesion"]})


def shares(outputs: dict[str, torch.Tensor]) -> list[list[bool]]:
    """Which structures have any probability, per image."""
    return (outputs["seg"].softmax(1).amax((2, 3)) > 0).tolist()


def test_structures_that_the_organ_does_not_have_get_no_probability() -> None:
    network, image = make_network().eval(), torch.rand(3, 3, 32, 32)
    prompt = torch.tensor([encode_prompt({"position": p}, POSITIONS) for p in ("breast", "lung", "unknown")])
    assert shares(inferer()(image, network, prompt=prompt)) == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]


def test_the_prompt_may_come_with_the_image() -> None:
    """All that MONAI Label hands to an inferer is the image."""
    network = make_network().eval()
    code = torch.tensor(encode_prompt({"position": "breast"}, POSITIONS))
    image = MetaTensor(torch.rand(3, 32, 32), meta={"prompt": code})
    assert shares(inferer()(image[None], network)) == [[True, True, False]]
    assert shares(inferer()(torch.rand(2, 3, 32, 32), network)) == [[True, True, True]] * 2


def test_unknown_positions_and_structures_are_refused() -> None:
    for organs in ({"leg": ["lesion"]}, {"breast": ["bone"]}):
        with pytest.raises(ValueError, match=r"organ_structures must map positions .* got '(leg|breast)': \['\w+'\]"):
            PromptedInferer(STRUCTURES, POSITIONS, organ_structures=organs)
