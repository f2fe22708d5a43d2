# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from bundle.tasks import Classes, Masks, Organ
from bundle.transforms import EncodePromptd
from bundle.vocabulary import PAPER_POSITIONS, Organs, encode_prompt, prompt_length

ORGANS = Organs({"head": {"structures": ["head"], "classes": ["well", "ill"]}, "indis": {}})
TASKS = [Masks(ORGANS), Classes(ORGANS, "head")]

ITEM = {"position": "head", "nature": "organ", "labeled": [True, True], "classes": {}, "item": "datalist.json item 3"}


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
    code = EncodePromptd(PAPER_POSITIONS, tasks=TASKS)(ITEM)["prompt"]
    assert code.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]
    drawn = EncodePromptd(PAPER_POSITIONS, tasks=TASKS).set_random_state(seed=0)
    both = torch.stack([drawn({**ITEM, "classes": {"head": 1}})["prompt"] for _ in range(400)])
    assert (both[:, 8] + both[:, 9] == 1).all()
    assert both[:, 9].mean().item() == pytest.approx(0.5, abs=0.08)
    unlabeled = {**ITEM, "labeled": [False, False]}
    assert EncodePromptd(PAPER_POSITIONS, tasks=TASKS)(unlabeled)["prompt"][8:10].tolist() == [0, 0]


def test_other_groups_than_the_prompts_do_not_count() -> None:
    organ = Organ(ORGANS)
    item = {**ITEM, "organ": "head"}
    assert organ.has(item)
    code = EncodePromptd(PAPER_POSITIONS, tasks=[organ])({**item, "task": "segmentation"})["prompt"]
    assert code[8:10].tolist() == [0, 0]


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
