# SPDX-License-Identifier: Apache-2.0
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from torch import Tensor

from bundle.engines import PrepareBatch, SimulatedInteraction, TrainingNetwork
from bundle.guidance import SimulatedUser, draw_guidance, middle
from bundle.networks import UPerConvNeXt, build_uperconvnext
from bundle.tasks import Masks, MultiTaskLoss, class_tasks
from bundle.vocabulary import Organs, encode_prompt

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/train.yaml")
BREAST = {"structures": ["lesion"], "classes": ["normal", "malignant"]}
ORGANS = Organs({"breast": BREAST, "indis": {"structures": ["nerve"]}})
TASKS = [Masks(ORGANS, criterion=DiceCELoss(softmax=True, to_onehot_y=True), absent=False), *class_tasks(ORGANS)]
Seen = tuple[Tensor, dict[str, Tensor]]  # image and targets of an iteration
Run = Callable[..., list[Seen]]


def network_that_sees(*structures: int) -> UPerConvNeXt:
    """A network whose prediction is these structures everywhere, and the others nowhere."""
    torch.manual_seed(0)
    network = build_uperconvnext(
        encoder="test_convnext", decoder_channels=16, structures=ORGANS.structures, label_sets=ORGANS.label_sets,
        positions=ORGANS.positions, guidance_channels=2,
    )  # fmt: skip
    with torch.no_grad():
        network.heads["seg"].refine.weight.zero_()
        network.heads["seg"].refine.bias.copy_(torch.tensor([0.0, *(5.0 if i in structures else -5.0 for i in (1, 2))]))
    return network


def lesion_and_nerve() -> Tensor:
    mask = torch.zeros(1, 64, 32)
    mask[0, 5:16, 3:10] = 1
    mask[0, 40:47, 11:30] = 2
    return mask


def make_batch(*plans: list[int], masks: list[Tensor] | None = None) -> dict[str, Any]:
    """One sample per plan: number of clicks, box first, former mask, seed."""
    label = torch.stack(masks or [lesion_and_nerve()] * len(plans))
    return {
        "image": torch.rand(len(plans), 3, 64, 32, generator=torch.Generator().manual_seed(0)),
        "targets": {
            "seg": {"label": label, "labeled": torch.ones(len(plans), 3, dtype=torch.bool)},
            "cls_breast": torch.full((len(plans),), -1),
        },
        "prompt": torch.tensor([encode_prompt({}, ORGANS.positions)] * len(plans)),
        "interaction": torch.tensor(plans),
    }


def flat(target: dict[str, Any]) -> dict[str, Tensor]:
    """The targets of masks and class, and ``guided`` where it is there."""
    targets = target["targets"]
    return {**targets["seg"], "cls": targets["cls_breast"], **{k: v for k, v in target.items() if k == "guided"}}


def interact(
    batch: dict[str, Any], *, sees: Sequence[int] = (), network: UPerConvNeXt | None = None, **options: Any
) -> Seen:
    """Image and targets that a trainer's iteration sees."""
    network = network or network_that_sees(*sees)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch],
        network=TrainingNetwork(network, device="cpu", amp=False),
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=MultiTaskLoss(TASKS),
        prepare_batch=PrepareBatch(TASKS),
        iteration_update=SimulatedInteraction(TASKS, **{"radius": 0.0, "wrong_prob": 0.0, **options}),
        decollate=False,
    )
    seen = record(trainer)
    trainer.run()
    return seen[0]


def guided(batch: dict[str, Any], **options: Any) -> Seen:
    """Image and targets of the rows that the users ask for, behind the batch."""
    (image, target), count = interact(batch, **options), len(batch["image"])
    return image[count:], {key: value[count:] for key, value in target.items()}


def record(trainer: Engine) -> list[Seen]:
    """Image and targets of each iteration to come."""
    seen: list[Seen] = []

    def add() -> None:
        seen.append((trainer.state.output["image"].clone(), flat(trainer.state.output["label"])))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, add)
    return seen


CLICK, NOBODY = [1, 0, 0, 0], [0, 0, 0, 0]


def test_a_user_wants_one_structure_against_the_rest() -> None:
    batch = make_batch(CLICK, [1, 0, 0, 1], [0, 1, 0, 2], NOBODY)
    batch["targets"]["cls_breast"][:] = 1
    image, target = guided(batch)
    assert torch.equal(image[:, :3], batch["image"][:3])
    assert target["labeled"].tolist() == [[True, True, False], [True, False, True], [True, True, False]]
    for row, structure in enumerate((1, 2, 1)):  # the seed chooses among those in the mask
        assert torch.equal(target["label"][row], (batch["targets"]["seg"]["label"][row] == structure) * structure)
    assert image[:, 3:].flatten(1).any(1).all()
    assert (target["cls"] == -1).all()


def test_the_automatic_result_is_trained_as_without_users() -> None:
    batch = make_batch(CLICK, [2, 1, 1, 1], NOBODY)
    image, target = interact(batch)
    assert len(image) == 5
    assert torch.equal(image[:3, :3], batch["image"])
    assert not image[:3, 3:].any()
    for key in ("label", "labeled", "cls"):
        assert torch.equal(target[key][:3], flat(batch)[key]), key
    assert target["guided"].tolist() == [False, False, False, True, True]
    assert "guided" not in interact(make_batch(NOBODY))[1]


def test_a_structure_that_is_not_labeled_is_not_wanted() -> None:
    batch = make_batch(*[[1, 0, 0, seed] for seed in range(4)])
    batch["targets"]["seg"]["labeled"][:, 1] = False
    _, target = guided(batch)
    assert target["labeled"].tolist() == [[True, False, True]] * 4


def test_nobody_asks_for_what_is_not_there() -> None:
    """Samples without a user, with an empty mask, and without a mask."""
    batch = make_batch(
        NOBODY, CLICK, CLICK, CLICK, masks=[lesion_and_nerve(), *[torch.zeros(1, 64, 32)] * 2, lesion_and_nerve()]
    )
    batch["targets"]["seg"]["labeled"][2] = False
    image, _ = guided(batch)
    assert torch.equal(image[:, :3], batch["image"][3:])
    assert image[0, 3].sum() == 1


def test_the_loaded_batch_is_not_written_to() -> None:
    batch = make_batch(CLICK, [2, 1, 1, 5])
    before = copy.deepcopy(batch)
    interact(batch)
    assert all(torch.equal(batch[key], before[key]) for key in ("image", "prompt", "interaction"))
    assert all(torch.equal(value, flat(before)[key]) for key, value in flat(batch).items())


def test_without_users_the_image_gets_no_channels() -> None:
    batch = make_batch(NOBODY, NOBODY)
    image, target = interact(batch)
    assert torch.equal(image, batch["image"])
    assert torch.equal(target["label"], flat(batch)["label"])


def test_further_clicks_are_in_the_middle_of_what_is_missed() -> None:
    batch = make_batch(CLICK, [2, 0, 0, 0], [5, 0, 0, 0])
    image, _ = guided(batch)
    truth = flat(batch)["label"][0, 0] == 1
    first = image[0, 3].nonzero()
    assert len(first) == 1
    assert truth[tuple(first[0])]
    expected = image[0, 3].clone()
    expected[middle(truth.numpy())] = 1
    assert expected.sum() == 2
    for row in (1, 2):  # the prediction stays empty, so each click falls on the same place
        assert torch.equal(image[row, 3], expected)
    assert not image[:, 4].any()


def test_clicks_on_surplus_say_what_is_not_wanted() -> None:
    batch = make_batch([2, 0, 0, 1])
    image, _ = guided(batch, sees=[1, 2])
    truth = flat(batch)["label"][0, 0] == 2
    assert image[0, 3].sum() == 1
    assert image[0, 4].nonzero().tolist() == [list(middle(~truth.numpy()))]


def test_each_user_sees_the_prediction_of_what_they_want() -> None:
    batch = make_batch([2, 0, 0, 0], [2, 0, 0, 1])
    image, _ = guided(batch, sees=[1])
    lesion, nerve = (flat(batch)["label"][0, 0] == structure for structure in (1, 2))
    assert image[0, 4].nonzero().tolist() == [list(middle(~lesion.numpy()))]
    assert not image[1, 4].any()
    assert image[1, 3][middle(nerve.numpy())] == 1


def test_the_last_prediction_is_given_back() -> None:
    image, _ = guided(make_batch([2, 0, 1, 0], [1, 0, 1, 0], [2, 0, 0, 0]), sees=[1, 2])
    assert image[0, 3].unique(return_counts=True)[1].tolist() == [64 * 32 - 1, 1]
    assert image[0, 3].unique().tolist() == [0.5, 1]
    assert image[1:, 3].unique().tolist() == [0, 1]  # a first click has no prediction before it


def test_a_box_comes_first() -> None:
    batch = make_batch([0, 1, 0, 6], [1, 1, 0, 6])
    image, _ = guided(batch)
    truth = (flat(batch)["label"][0, 0] == 1).numpy()
    user = SimulatedUser(truth, np.random.default_rng(6))
    user.draw_box(jitter=0.1)
    expected = draw_guidance(truth.shape, box=user.box, radius=0)
    assert 0 < expected[1].sum() < truth.size
    assert torch.equal(image[0, 3:], expected)
    assert torch.equal(image[1, 4], expected[1])
    assert image[1, 3].nonzero().tolist() == [list(middle(truth))]  # a click on the prediction that followed the box


def test_a_perfect_prediction_ends_the_clicks() -> None:
    network = network_that_sees(1)
    calls = watch(network)
    image, _ = guided(make_batch([9, 0, 1, 0], masks=[torch.ones(1, 64, 32)]), network=network)
    assert image[0, 3].sum() == 1
    assert not image[0, 4].any()
    assert calls == [(False, 1), (True, 2)]


def watch(network: UPerConvNeXt) -> list[tuple[bool, int]]:
    """Mode and number of images of each pass."""
    calls: list[tuple[bool, int]] = []
    network.encoder.register_forward_pre_hook(lambda module, inputs: calls.append((module.training, len(inputs[0]))))
    return calls


def test_predictions_are_made_in_evaluation_mode_for_those_who_click_on() -> None:
    network = network_that_sees()
    calls = watch(network)
    interact(make_batch(CLICK, NOBODY, [3, 0, 0, 0], [1, 1, 0, 0]), network=network)
    assert calls == [(False, 2), (False, 1), (True, 7)]
    assert all(module.training for module in network.modules())


def test_clicks_go_wrong_as_often_as_asked() -> None:
    batch = make_batch(*[[1, 0, 0, seed] for seed in range(0, 20, 2)])
    truth = flat(batch)["label"][0, 0] == 1
    for wrong_prob in (0.0, 1.0):
        image, _ = guided(batch, wrong_prob=wrong_prob)
        assert (image[:, 3].sum((1, 2)) == 1).all()
        assert image[:, 3][:, truth].any(1).tolist() == [not wrong_prob] * 10


def test_a_click_has_its_radius() -> None:
    image, _ = guided(make_batch([1, 0, 0, 1]), radius=3.0)
    assert image[0, 3].sum() == 29  # lattice points with x^2 + y^2 <= 9


@pytest.fixture
def shipped(tiny_options: Callable[..., dict[str, Any]], tmp_path: Path) -> Run:
    """Runs the trainer of the shipped train.yaml for an epoch; gives its images and targets."""

    def run(**changes: Any) -> list[Seen]:
        parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
        parser.update({**tiny_options(tmp_path), "max_epochs": 1, "train#handlers": [], **changes})
        torch.manual_seed(0)
        trainer = parser.get_parsed_content("train#trainer")
        seen = record(trainer)
        trainer.run()
        return seen

    return run


def test_the_shipped_training_has_users(shipped: Run) -> None:
    batches = shipped(interaction_prob=1.0)
    assert len(batches) == 3
    rows = 0
    for image, target in batches:
        asked = image[:, 3:].flatten(1).any(1)
        masked = target["labeled"].any(1) & target["label"].flatten(1).any(1)
        rows += int(asked.sum())
        assert image.shape[1:] == (5, 64, 64)
        assert int(asked.sum()) == int((masked & ~asked).sum())  # each sample with a mask once more
        assert (target["labeled"][asked].sum(1) == 2).all()
        assert all(len(label.unique()) == 2 for label in target["label"][asked])
        assert (image[:, 3:] >= 0).all()
        assert (image[:, 3:] <= 1).all()
    assert rows > 3


def test_seeds_decide_what_users_do(shipped: Run) -> None:
    one, again, other = shipped(), shipped(), shipped(seed=1)
    for (image, target), (second, its_target) in zip(one, again, strict=True):
        assert torch.equal(image, second)
        assert all(torch.equal(target[key], its_target[key]) for key in target)
    assert any(a[0].shape != b[0].shape or not torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_without_interaction_images_have_three_channels(shipped: Run) -> None:
    assert {image.shape[1] for image, _ in shipped(interaction_prob=0.0)} == {3}
