# SPDX-License-Identifier: Apache-2.0
"""What a run is, and how two differ; tests/engines/test_checkpoints.py does it with the shipped config."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import RandAdjustContrastd
from torch import nn

from bundle.engines.identity import describe, describe_items, differences, refusal
from bundle.engines.schedule import warmup_polynomial
from tests.transforms.made_files import in_two_parts


def make_items(folder: Path) -> list[dict[str, Any]]:
    (folder / "masks").mkdir(parents=True)
    for n in range(3):
        (folder / f"{n}.png").write_bytes(b"image")
        (folder / f"masks/{n}.png").write_bytes(b"mask0")
    return [
        {
            "image": str(folder / f"{n}.png"),
            "label": [str(folder / f"masks/{n}.png")],
            "dataset": "AAB"[n],
            "cls": [n],
            "spacing": [float("nan")] * 2,
            "item": f"{folder}/datalist.json item {n}",
        }
        for n in range(3)
    ]


def test_a_copy_of_the_data_elsewhere_is_the_same(tmp_path: Path) -> None:
    found = describe_items(make_items(tmp_path / "one"))
    assert {name: text.split(" ")[0] for name, text in found.items()} == {"A": "2", "B": "1", "(all)": "3"}
    assert describe_items(make_items(tmp_path / "other/folder")) == found


@pytest.mark.parametrize("change", ["class", "mask", "image", "order", "spacing"])
def test_a_change_of_the_data_is_noticed_in_its_data_set(tmp_path: Path, change: str) -> None:
    items = make_items(tmp_path)
    before = describe_items(items)
    if change == "class":
        items[1]["cls"] = [0]
    elif change == "mask":
        (tmp_path / "masks/1.png").write_bytes(b"mask1")
    elif change == "image":
        (tmp_path / "1.png").write_bytes(b"another image")
    elif change == "order":
        items[:2] = items[1::-1]
    else:
        items[1]["spacing"] = [0.1, 0.1]
    after = describe_items(items)
    assert after["A"] != before["A"]
    assert after["B"] == before["B"]


def test_the_order_of_data_sets_is_noticed(tmp_path: Path) -> None:
    items = make_items(tmp_path)
    before, after = describe_items(items), describe_items([items[0], items[2], items[1]])
    assert [name for name in before if after[name] != before[name]] == ["(all)"]


def test_items_of_monai_label_are_described_and_none_at_all_too(tmp_path: Path) -> None:
    paths = [{"image": item["image"], "label": item["label"][0]} for item in make_items(tmp_path)]
    assert describe_items(paths)["unknown"].startswith("3 items ")
    assert describe_items([]).keys() == {"(all)"}


class Holder(nn.Module):
    """A module with all that a description follows."""

    def __init__(self, weight: float, values: list[int]) -> None:
        super().__init__()
        self.weight = weight
        self.function = functools.partial(np.mean, axis=len(values))
        self.register_buffer("values", torch.tensor(values))
        self.child = nn.Dropout(weight)


def test_objects_are_told_apart_by_what_they_were_made_of() -> None:
    one, other = describe(Holder(0.5, [1, 2])), describe(Holder(0.25, [1, 3]))
    assert differences(one, other) == [
        ("weight", 0.5, 0.25),
        ("child#p", 0.5, 0.25),
        ("values", [1, 2], [1, 3]),
    ]
    assert describe(Holder(0.5, [1, 2])) == one


def test_a_transform_that_has_drawn_random_numbers_is_the_same() -> None:
    transform = RandAdjustContrastd(keys="image", prob=1.0, gamma=(0.5, 2.0))
    before = describe(transform)
    transform.set_random_state(seed=3)
    assert describe(transform) == before


def test_a_schedule_is_told_by_its_length_and_its_optimizer_by_its_rate() -> None:
    def make(epochs: int, rate: float) -> dict[str, Any]:
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=rate)
        schedule = warmup_polynomial(optimizer, loader=range(5), epochs=epochs)
        return {"optimizer": describe(optimizer), "schedule": describe(schedule.lr_lambdas)}

    assert sorted(differences(make(2, 0.1), make(4, 0.2))) == [
        ("optimizer#groups#0#lr", 0.1, 0.2),
        ("schedule#0#total", 10, 20),
        ("schedule#0#warmup", 1, 2),
    ]


def identity(**changes: Any) -> dict[str, Any]:
    own = {"versions": {"bundle": "1"}, "data": {}, "options": {"seed": 0, "processes": 1}}
    return {**own, "components": {"loss": {"a": 1}}, **changes}


def test_a_refusal_names_options_before_components() -> None:
    assert refusal(identity(), identity()) == ""
    other = identity(options={"seed": 0, "processes": 2}, components={"loss": {"a": 2}})
    assert refusal(identity(), other) == "processes: run has 1, got 2; resume with what the run was started with"
    other = identity(components={"loss": {"a": 2}})
    assert refusal(identity(), other) == "loss#a: run has 1, got 2; resume with what the run was started with"
    assert refusal(identity(), {**other, "versions": {"bundle": "2"}}) == ""
    other = identity(options={"seed": 1, "processes": 1})
    assert refusal(identity(), other) == "seed: run has 0, got 1; resume with --seed 0"


def test_a_refusal_offers_no_option_of_a_stranger() -> None:
    """Neither a name nor a value of the file that a shell might run; a path, a list and none as they were."""
    saved = {**identity(), "options": {**identity()["options"], "x; touch EXECUTED": 1}}
    assert refusal(saved, identity()) == (
        "a value of other characters: run has 1, got nothing; resume with what the run was started with"
    )
    saved = {**identity(), "options": {"seed": "$(touch EXECUTED)"}}
    text = refusal(saved, identity())
    assert "EXECUTED" not in text
    assert "resume with what the run was started with" in text
    for value, flag in (("/a/b c.pt", "'/a/b c.pt'"), (["a b", None], """'["a b", None]'"""), (None, "'$None'")):
        assert refusal({**identity(), "options": {"seed": value}}, identity()).endswith(f"resume with --seed {flag}")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_values_beside_a_header_are_part_of_the_data(tmp_path: Path, suffix: str) -> None:
    image, mask = (in_two_parts(tmp_path / f"{name}{suffix}", np.zeros((4, 4))) for name in ("image", "mask"))
    items = [{"image": str(image), "label": [str(mask)]}]
    found = [describe_items(items)["unknown"]]
    (tmp_path / "mask.raw").write_bytes(bytes([1] * 16))
    found.append(describe_items(items)["unknown"])
    (tmp_path / "image.raw").write_bytes(bytes(17))
    found.append(describe_items(items)["unknown"])
    assert len(set(found)) == 3
