# SPDX-License-Identifier: Apache-2.0
"""Weights keep what their training taught, and no answer at random."""

from pathlib import Path

import torch
from torch import nn

from bundle.networks import UPerConvNeXt, build_uperconvnext
from bundle.networks.heatmaps import PointHead
from bundle.networks.taught import taught_part
from bundle.networks.weights import load_network, save_checkpoint

ROWS = ["left", "right", "mark"]


def network(rows: list[str]) -> UPerConvNeXt:
    torch.manual_seed(0)
    shape = {"encoder": "test_convnext", "decoder_channels": 16, "positions": ["lung", "indis"]}
    plain = build_uperconvnext(**shape, structures=["background", "a"], label_sets={"lung": ["yes", "no"]})
    heads = {**dict(plain.heads.named_children()), "points": PointHead(16, rows)}
    return UPerConvNeXt(plain.encoder, plain.decoder, plain.prompter, nn.ModuleDict(heads)).eval()


def test_heads_and_rows_that_were_not_taught_are_left_out(tmp_path: Path) -> None:
    whole = network(ROWS)
    state, config = taught_part(
        whole, whole.network_config(), {"cls_lung": [], "points": ["mark", "left", "other"]}
    ).values()
    assert config["heads"] == {"cls_lung": ["yes", "no"], "points": ["mark", "left"]}
    assert "structures" not in config
    assert config["label_sets"] == {"lung": ["yes", "no"]}
    part = network(["mark", "left"])
    del part.heads["seg"]
    part = UPerConvNeXt(part.encoder, part.decoder, part.prompter, part.heads).eval()
    save_checkpoint(tmp_path / "model.pt", model=state, network_config=config)
    load_network(part, tmp_path / "model.pt")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found, before = part.predict(image), whole.predict(image)
    assert torch.equal(found["points"], before["points"][:, [2, 0]])
    assert torch.equal(found["cls_lung"], before["cls_lung"])


def test_masks_without_classes_tell_of_no_label_set() -> None:
    whole = network(ROWS)
    state, config = taught_part(whole, whole.network_config(), {"seg": []}).values()
    assert (list(config["heads"]), config["structures"], config["label_sets"]) == (["seg"], ["background", "a"], {})
    assert not [name for name in state if name.startswith(("heads.cls", "heads.points"))]


def test_all_is_kept_where_nothing_is_said() -> None:
    whole = network(ROWS)
    state, config = taught_part(whole, whole.network_config(), None).values()
    assert config == whole.network_config()
    assert set(state) == set(whole.state_dict())
