# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from bundle.transforms import EncodePromptd, SplitPredictiond
from bundle.vocabulary import PAPER_POSITIONS, encode_prompt, prompt_length

ITEM = {"position": "head", "nature": "organ", "labeled": [True, True], "cls": [-1], "item": "datalist.json item 3"}


def test_paper_order_and_length() -> None:
    # breast cardiac thyroid head kidney appendix liver indis | segmentation classification | whole local location |
    # tumor organ
    prompt = {"position": "head", "task": "classification", "type": "local", "nature": "organ"}
    assert prompt_length(PAPER_POSITIONS) == 15
    assert encode_prompt(prompt, PAPER_POSITIONS) == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1]


def test_unknown_is_neutral() -> None:
    assert encode_prompt({}, PAPER_POSITIONS) == [0] * 7 + [1] + [0, 0] + [1, 0, 0] + [0, 0]
    assert encode_prompt({"position": "unknown", "nature": ""}, PAPER_POSITIONS) == encode_prompt({}, PAPER_POSITIONS)


def test_training_draws_the_task_from_the_labels() -> None:
    code = EncodePromptd(PAPER_POSITIONS, sample_task=True)(ITEM)["prompt"]
    assert code.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]


def test_drop_rate() -> None:
    transform = EncodePromptd(PAPER_POSITIONS, drop_prob=0.3).set_random_state(seed=0)
    codes = torch.stack([transform(ITEM)["prompt"] for _ in range(2000)])
    # a prompt is kept when neither all (0.3) nor it alone (0.3) is dropped: 0.49
    assert codes[:, 3].mean().item() == pytest.approx(0.49, abs=0.03)
    assert (codes[:, 3] + codes[:, 7] == 1).all()


def test_unknown_organ_names_item_and_choices() -> None:
    with pytest.raises(ValueError, match=r"datalist.json item 3: position must be one of \['breast', .*got 'spleen'"):
        EncodePromptd(PAPER_POSITIONS)({**ITEM, "position": "spleen"})


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task must be one of .*got 'detection'"):
        EncodePromptd(PAPER_POSITIONS)({**ITEM, "task": "detection"})


def test_prediction_is_split_into_probabilities() -> None:
    pred = {"seg": torch.tensor([0.0, 1.0]).log1p().reshape(2, 1, 1), "cls_lung": torch.tensor([0.0, 0.0])}
    item = SplitPredictiond("pred")({"pred": pred})
    assert item["pred"].flatten().tolist() == pytest.approx([1 / 3, 2 / 3])
    assert item["probabilities"]["lung"].tolist() == [0.5, 0.5]
