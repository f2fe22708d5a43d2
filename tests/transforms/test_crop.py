# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from monai.data import MetaTensor

from bundle.transforms.crop import RandCropToStructured
from bundle.transforms.items import ItemDefaultsd


def sample() -> dict[str, object]:
    label = torch.zeros(1, 60, 100)
    label[0, 20:30, 40:80] = 2
    return {"image": MetaTensor(torch.arange(6000.0).reshape(1, 60, 100)), "label": MetaTensor(label), "type": "whole"}


def test_crop_holds_the_structure_with_its_margin() -> None:
    item = RandCropToStructured(["image", "label"], prob=1.0, margin=(0.5, 0.5), min_margin=0)(sample())
    # 10 x 40 pixels, half of that on each side: rows 15..35, columns 20..100
    assert item["label"].shape == (1, 20, 80)
    assert item["image"][0, 0, 0] == 15 * 100 + 20
    assert item["type"] == "local"


def test_margin_is_at_least_the_minimum() -> None:
    item = RandCropToStructured(["image", "label"], prob=1.0, margin=(0.0, 0.0), min_margin=8)(sample())
    assert item["label"].shape == (1, 26, 56)


def test_crop_is_inverted() -> None:
    transform = RandCropToStructured(["image"], prob=1.0, margin=(0.5, 0.5), min_margin=0)
    data = sample()
    back = transform.inverse(transform(data))["image"]
    assert back.shape == (1, 60, 100)
    assert torch.equal(back[0, 15:35, 20:100], data["image"][0, 15:35, 20:100])
    assert back.sum() == data["image"][0, 15:35, 20:100].sum()  # zeros elsewhere
    whole = RandCropToStructured(["image"], prob=0.0)
    assert torch.equal(whole.inverse(whole(data))["image"], data["image"])


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_empty_masks_and_zero_probability_stay_whole(prob: float) -> None:
    data = sample()
    if prob:
        data["label"] = MetaTensor(torch.zeros(1, 60, 100))
    item = RandCropToStructured(["image", "label"], prob=prob)(data)
    assert item["image"].shape == (1, 60, 100)
    assert item["type"] == "whole"


def test_items_of_monai_label_get_every_key() -> None:
    defaults = ItemDefaultsd(["background", "lesion"], {"breast": ["normal", "benign"]})
    item = defaults({"image": "a.png", "label": "m.png"})
    assert item["label"] == ["m.png"]
    assert item["labeled"] == [True, True]
    assert item["cls"] == [-1]
    assert item.keys() == defaults({"image": "b.png"}).keys()
    assert defaults({"image": "b.png"})["labeled"] == [False, False]
