# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of plain values that describe no network are refused by every reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.export import load_source
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.start import load_start
from bundle.networks.weights import load_encoder, load_network
from tests.described_files import PLAIN, hostile, small

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


ODD: list[tuple[str, Any, str]] = [
    ("encoder", "hf-hub:owner/x", "one of timm's encoders as 'encoder', got a text that is no plain name"),
    ("encoder", "local-dir:/x", "got a text that is no plain name"),
    ("encoder", "convnext_atto.x/../y", "got a text that is no plain name"),
    ("encoder", "convnext_atto.other", "got 'convnext_atto.other'"),
    ("encoder", "resnet18.other", "got 'resnet18.other'"),
    ("encoder", "", "got ''"),
    ("encoder", ["convnext_atto"], r"got \['convnext_atto'\]"),
    ("encoder", None, "got None"),
    ("decoder_channels", -96, "a whole number from 1 to 1024 as 'decoder_channels', got -96"),
    ("decoder_channels", 0, "got 0"),
    ("decoder_channels", 4096, "got 4096"),
    ("decoder_channels", 10**30, "got a number of more than 20 digits"),
    ("decoder_channels", 96.0, "got 96.0"),
    ("decoder_channels", "96", "got '96'"),
    ("decoder_channels", [96], r"got \[96\]"),
    ("structures", [], r"2 to 255 different names as 'structures', got \[\]"),
    ("structures", ["background"], r"got \['background'\]"),
    ("structures", ["background", "lesion", "lesion"], r"got \['background', 'lesion', 'lesion'\]"),
    ("structures", ["background", "x" * 101], "got a list of 2"),
    ("structures", [str(index) for index in range(256)], "got a list of 256"),
    ("structures", "background", "got 'background'"),
    ("structures", {"background": "lesion"}, "got {'background': 'lesion'}"),
    ("structures", {"background": "<b>"}, "got a table of 1"),
    ("structures", ["background", 5], r"got \['background', 5\]"),
    ("label_sets", {"breast": []}, "a table of names and lists of 2 to 255 different names as 'label_sets', got"),
    ("label_sets", {"breast": ["benign"]}, "as 'label_sets', got"),
    ("label_sets", {"breast": ["benign", "benign"]}, "as 'label_sets', got"),
    ("label_sets", {"breast": "benign"}, "as 'label_sets', got"),
    ("label_sets", {f"set{index}": ["a", "b"] for index in range(256)}, "as 'label_sets', got a table of 256"),
    ("label_sets", ["breast"], r"got \['breast'\]"),
    ("positions", [], r"as 'positions', got \[\]"),
    ("positions", ["breast", "breast", "indis"], "as 'positions', got"),
    ("positions", ["breast"], r"positions must hold the neutral value 'indis', got \['breast'\]"),
    ("conditioning", "other", "film, additive or none as 'conditioning', got 'other'"),
    ("conditioning", ["film"], r"got \['film'\]"),
    ("norm", 1, "group or batch as 'norm', got 1"),
    ("pooling", None, "avg or avgmax as 'pooling', got None"),
    ("guidance_channels", 1, "0 or 2 as 'guidance_channels', got 1"),
    ("guidance_channels", -2, "got -2"),
    ("organs", ["breast"], r"a table of names and what they show as 'organs', got \['breast'\]"),
    ("organs", {"breast": ["lesion"]}, "a table of names and what they show as 'organs', got"),
    ("version", 5, "as 'version', got 5"),
]


@pytest.mark.parametrize(("key", "value", "message"), ODD, ids=[f"{row[0]}{number}" for number, row in enumerate(ODD)])
def test_a_plain_value_that_describes_no_network_is_refused(here: Path, key: str, value: Any, message: str) -> None:
    path = hostile(here / "model.pt", key, value)
    refused = pytest.raises(ValueError, match=rf"^[^\n]*model\.pt: [^\n]*{message}[^\n]*$")
    with refused:
        load_source(path, config_files=[ROOT / "configs/train.yaml"])
    with refused:
        load_network(small(), path)
    with refused:
        load_start(small(), path)
    if key != "positions":
        with refused:
            load_encoder(ConvNeXtEncoder("test_convnext"), name="test_convnext", path=path)


@pytest.mark.parametrize("key", ["encoder", "decoder_channels", "label_sets", "positions", "conditioning", "norm"])
def test_a_checkpoint_must_describe_all_of_its_network(here: Path, key: str) -> None:
    config = {name: value for name, value in PLAIN.items() if name != key}
    torch.save({"model": small().state_dict(), "network_config": config}, here / "model.pt")
    with pytest.raises(ValueError, match=rf"model\.pt: network_config must hold encoder, .*got none of {key}[;.]"):
        load_source(here / "model.pt", config_files=[ROOT / "configs/train.yaml"])


STATES: list[tuple[str, Any, str]] = [
    (
        "a number",
        5,
        r"model must be a table of names and tensors, got a value that is none: 'heads\.seg\.refine\.bias'",
    ),
    ("whole numbers", torch.ones(2, dtype=torch.long), r"heads\.seg\.refine\.bias is \[2\] of int64 .*expected \[2\]"),
    ("complex", torch.ones(2, dtype=torch.cfloat), r"heads\.seg\.refine\.bias is \[2\] of complex64"),
    ("sparse", torch.ones(2).to_sparse(), r"heads\.seg\.refine\.bias is \[2\] of sparse_coo"),
    ("meta", torch.ones(2, device="meta"), r"heads\.seg\.refine\.bias is \[2\] of meta"),
    (
        "float8",
        torch.ones(2).to(torch.float8_e4m3fn),
        r"heads\.seg\.refine\.bias is \[2\] of float8_e4m3fn .*expected \[2\]",
    ),
    (
        "nested",
        torch.nested.nested_tensor([torch.ones(2)]),
        r"heads\.seg\.refine\.bias is nested in the file, expected \[2\]",
    ),
    ("shape", torch.ones(3), r"heads\.seg\.refine\.bias is \[3\] in the file, expected \[2\]"),
]


@pytest.mark.parametrize(("kind", "value", "message"), STATES, ids=[state[0] for state in STATES])
def test_what_is_no_weight_is_refused(here: Path, kind: str, value: Any, message: str) -> None:
    state = {**small().state_dict(), "heads.seg.refine.bias": value}
    torch.save({"model": state, "network_config": PLAIN}, here / "model.pt")
    with pytest.raises(ValueError, match=message):
        load_network(small(), here / "model.pt")
    started = message if kind == "a number" else r"refine\.bias must have shape \[2\], got (\[|nested)"
    with pytest.raises(ValueError, match=started):
        load_start(small(), here / "model.pt")


@pytest.mark.parametrize(
    ("name", "value"),
    [("heads.seg.refine.bias", 1e39), ("decoder.fusion.norm.bias", -1e39), ("heads.seg.refine.bias", float("nan"))],
)
def test_weights_that_float32_cannot_hold_are_refused(here: Path, name: str, value: float) -> None:
    """Also where only some rows of them would be taken."""
    state = small().state_dict()
    state[name] = torch.full_like(state[name], value, dtype=torch.float64)
    torch.save({"model": state, "network_config": PLAIN}, here / "model.pt")
    message = rf"^[^\n]*model\.pt: weights must be finite in float32, got NaN or infinite values in {name};[^\n]*$"
    with pytest.raises(ValueError, match=message):
        load_network(small(), here / "model.pt")
    with pytest.raises(ValueError, match=message):
        load_start(small(), here / "model.pt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_floats_are_taken(here: Path, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in small().state_dict().items()}
    torch.save({"model": state, "network_config": PLAIN}, here / "model.pt")
    network = small()
    load_network(network, here / "model.pt")
    assert all(torch.equal(value, state[name].float()) for name, value in network.state_dict().items())


ODD_ENCODERS = {"float8": torch.ones(1).to(torch.float8_e5m2), "nested": torch.nested.nested_tensor([torch.ones(1)])}


@pytest.mark.parametrize("kind", ODD_ENCODERS)
@pytest.mark.parametrize("layout", ["encoder.backbone.stem_0.{}", "stem.0.{}", "downsample_layers.0.0.{}"])
def test_what_is_no_weight_is_refused_in_an_encoder(here: Path, kind: str, layout: str) -> None:
    torch.save({layout.format(name): ODD_ENCODERS[kind] for name in ("weight", "bias")}, here / "encoder.pt")
    with pytest.raises(
        ValueError, match=rf"^[^\n]*encoder\.pt does not fit [^\n]* is (absent|{kind}|.* of {kind})[^\n]*$"
    ):
        load_encoder(ConvNeXtEncoder("test_convnext"), name="test_convnext", path=here / "encoder.pt")
