# SPDX-License-Identifier: Apache-2.0
"""What files of others say of themselves is read in bounds: no list is followed without end, no number is too large."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.described import NotPlain, described_export, described_network, harmless, plain_values
from bundle.engines import checkpoints
from bundle.export import load_source
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.weights import load_encoder, read_checkpoint
from tests.described_files import EXPORTED, PLAIN, hostile

ROOT = Path(__file__).resolve().parents[1]


def doubled(levels: int) -> list[Any]:
    """2 ** levels entries, in as many lists as levels."""
    value: list[Any] = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def circle(*, table: bool) -> Any:
    """A list, or a table, that contains itself."""
    held: Any = {} if table else []
    held.update(a=held) if table else held.append(held)
    return held


def shared() -> list[Any]:
    """9999 ** 3 entries in three levels."""
    return [[[[1] * 9999] * 9999] * 9999]


ENDLESS: list[tuple[str, Any]] = [
    ("encoder", doubled(45)),
    ("organs", {"breast": {"a": shared()}}),
    ("parts", {"encoder": {"class": "ConvNeXtEncoder", "a": shared()}}),
    ("structures", circle(table=False)),
    ("gate", circle(table=True)),
    ("version", [1] * 100_001),
]


@pytest.mark.parametrize(("key", "value"), ENDLESS, ids=[key for key, _ in ENDLESS])
def test_lists_without_end_are_refused_by_every_reader(tmp_path: Path, key: str, value: Any) -> None:
    path = hostile(tmp_path / "model.pt", key, value)
    refused = pytest.raises(
        NotPlain, match=r"^[^\n]*model\.pt: network_config must hold at most 100000 entries in 32 levels, got more"
    )
    with refused:
        read_checkpoint(path)
    with refused:
        load_source(path, config_files=[ROOT / "configs/train.yaml"])
    with refused:
        load_encoder(ConvNeXtEncoder("test_convnext"), name="test_convnext", path=path)
    with pytest.raises(NotPlain, match=r"^m\.onnx: metadata must hold at most 100000 entries in 32 levels, got more"):
        described_export({**EXPORTED, "network": {key: value}}, path="m.onnx")


@pytest.mark.parametrize("value", [doubled(45), shared(), circle(table=True)], ids=["doubled", "shared", "circle"])
def test_a_run_whose_identity_has_no_end_is_not_resumed(tmp_path: Path, value: Any) -> None:
    parts: dict[str, Any] = {name: {} for name in ("network", "average", "optimizer", "lr_scheduler")}
    said = {"epoch": 1, "best": (0.5, 1), "identity": {"options": {"a": value}}}
    torch.save({**parts, **said}, tmp_path / "last.pt")
    with pytest.raises(NotPlain, match=r"last\.pt: identity must hold at most 100000 entries in 32 levels, got more"):
        checkpoints.read_state(tmp_path / "last.pt")


def test_the_bounds_are_those_of_the_message() -> None:
    assert plain_values([1] * 100_000, path="last.pt", name="identity") == [1] * 100_000
    deep: Any = 1
    for _ in range(32):
        deep = {"a": deep}
    assert plain_values(deep, path="last.pt", name="identity") == deep
    with pytest.raises(NotPlain, match="in 32 levels"):
        plain_values([deep], path="last.pt", name="identity")
    assert not harmless(circle(table=False))


HUGE = 10**400
PIXELS = "a multiple of 32 pixels from 32 to 2048"
MEAN, STD = "3 numbers from -1000 to 1000", "3 numbers from 0.001 to 1000"
RADIUS, GATE = "a number of pixels from 0.1 to 1000", "a table of names and numbers from 0 to 1"
IMPOSSIBLE: list[tuple[str, Any, str]] = [
    *(("image_size", value, PIXELS) for value in (0, -32, 31, 33, 100, 2080, 4096, 224.0, HUGE)),
    *(("image_mean", value, MEAN) for value in ([], [0.5], [0.5] * 4, [0.5, 0.5, HUGE], [0.5, 0.5, math.nan])),
    *(("image_mean", value, MEAN) for value in (0.5, [0.5, 0.5, -math.inf], [0.5, 0.5, True], [0.5, 0.5, "1"])),
    *(("image_std", value, STD) for value in ([0.2, 0.2, 0.0], [0.2, -0.2, 0.2], [0.2], [0.2] * 4, [1, 1, HUGE])),
    *(("image_std", value, STD) for value in ([0.2, 0.2, math.nan], [0.2, 0.2, math.inf], [0.2, 0.2, 1e-300])),
    *(("click_radius", value, RADIUS) for value in (0, -5.0, 1001, HUGE, -HUGE, math.nan, math.inf, "5", True, None)),
    *(("gate", {"lesion": value}, GATE) for value in (1.5, -0.1, HUGE, math.nan, math.inf, "0.5", True, None)),
    ("gate", 0.5, GATE),
]


@pytest.mark.parametrize(("key", "value", "expected"), IMPOSSIBLE, ids=[f"{c[0]}{n}" for n, c in enumerate(IMPOSSIBLE)])
def test_numbers_that_no_model_can_have_are_refused(key: str, value: Any, expected: str) -> None:
    with pytest.raises(NotPlain, match=rf"^m\.pt: network_config must hold {re.escape(expected)}.* as '{key}', got "):
        described_network({**PLAIN, key: value}, path="m.pt")
    with pytest.raises(NotPlain, match=rf"^m\.onnx: metadata must hold {re.escape(expected)}.* as '{key}', got "):
        described_export({**EXPORTED, key: value}, path="m.onnx")


def test_numbers_at_their_limits_are_taken() -> None:
    possible = [
        {"image_size": 32, "image_mean": [0, 0.5, 1], "image_std": [0.001, 1, 255.0], "click_radius": 1000},
        {"image_size": 2048, "image_mean": (-1.0, 0.0, 1000), "click_radius": 0.1, "gate": {"lesion": 0, "cyst": 1}},
        {"gate": None},
        {"gate": {}},
    ]
    for told in possible:
        assert described_network(told, path="m.pt") == told


@pytest.mark.parametrize("number", [HUGE, -HUGE, math.nan, math.inf], ids=["huge", "-huge", "nan", "inf"])
@pytest.mark.parametrize("key", ["organs", "parts"])
def test_numbers_within_tables_are_finite(key: str, number: Any) -> None:
    table: dict[str, Any] = {"organs": {"breast": {"a": [number]}}, "parts": {"decoder": {"class": "FPN", "a": number}}}
    with pytest.raises(NotPlain, match=rf"^m\.pt: network_config must hold a table of .* as '{key}', got "):
        described_network({**PLAIN, key: table[key]}, path="m.pt")


@pytest.mark.parametrize(
    "prompt",
    [
        {}, {"neutral": 0}, {"neutral": [HUGE]}, {"neutral": [math.nan]}, {"neutral": [2]}, {"neutral": ["0"]},
        {"neutral": [0], "x": "$y"}, {"neutral": [0], "x": 1}, {"neutral": [0], "$x": 1}, {"neutral": [0], "order": 1},
        {"neutral": [0], "order": {"position": "breast"}}, {"neutral": [0], "order": {"position": ["@y"]}},
        {"neutral": [0], "order": {"$position": ["breast"]}}, {"neutral": [0], "order": {"position": [["breast"]]}},
    ],
    ids=range(14),
)  # fmt: skip
def test_all_of_a_prompt_is_looked_at(prompt: Any) -> None:
    expected = r"a table of neutral \(numbers from 0 to 1\) and order \(a table of names and lists of names\)"
    with pytest.raises(NotPlain, match=rf"^m\.onnx: metadata must hold {expected} as 'prompt', got .* Nothing of it"):
        described_export({**EXPORTED, "prompt": prompt}, path="m.onnx")


def test_the_prompt_of_an_export_is_taken() -> None:
    prompt = {"order": {"position": ["breast", "indis"], "nature": ["organ"]}, "neutral": [0.0, 1.0, 1]}
    assert described_export({**EXPORTED, "prompt": prompt}, path="m.onnx")["prompt"] == prompt
