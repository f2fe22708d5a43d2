# SPDX-License-Identifier: Apache-2.0
"""Corrections by clicks, boxes and former masks, over HTTP."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.monai_label.client import STRUCTURES, Server

pytestmark = pytest.mark.label
X, Y = 60, 28  # column and row, inside the ellipse of "gray"


@pytest.mark.parametrize("structure", STRUCTURES[1:])
def test_click_makes_its_place_the_structure_in_every_dialect(server: Server, structure: str) -> None:
    others = {name: [] for name in STRUCTURES if name != structure}
    dialects: list[dict[str, Any]] = [
        {**others, structure: [[X, Y, 0]], "label": structure, "slice": None},  # 3D Slicer
        {"background": [], structure: [[X, Y, 0]], "restore_label_idx": False},  # OHIF
        {"foreground": [[X, Y, 0]], "background": [], "label": structure, "slice": 0},  # deepgrow clients
        {"foreground": [[X, Y]], "label": structure.upper()},  # 2 numbers
    ]
    before, *after = [server.click("gray", **dialect) for dialect in ({}, *dialects)]
    assert after[0].mask[Y, X] == STRUCTURES.index(structure)
    assert after[0].mask.tolist() != before.mask.tolist()
    assert "clicks" not in before.params
    for answer in after:
        assert answer.params["clicks"] == {structure: {"wanted": 1, "unwanted": 0}}
        assert answer.mask.tolist() == after[0].mask.tolist()


def test_click_of_cvat_on_a_sent_jpeg_finds_one_object_there(server: Server) -> None:
    request = {"output": "mask", "foreground": [[X, Y]], "background": []}
    answer = server.click(file=server.studies / "photo.jpg", **request)
    assert answer.file.endswith(".png")
    assert answer.mask[Y, X] > 0
    assert len(np.unique(answer.mask)) == 2  # CVAT tells background from the rest alone
    assert answer.params["clicks"] == {"unnamed": {"wanted": 1, "unwanted": 0}}


def test_click_against_takes_its_place_away(server: Server) -> None:
    found = np.argwhere(server.click("gray", lesion=[[X, Y, 0]]).mask == 1)
    row, column = (int(n) for n in found[np.abs(found - (Y, X)).sum(1).argmax()])
    corrected = server.click("gray", lesion=[[X, Y, 0]], background=[[column, row, 0]], label="lesion")
    assert corrected.params["clicks"] == {"lesion": {"wanted": 1, "unwanted": 1}}
    assert corrected.mask[row, column] == 0
    assert corrected.mask[Y, X] == 1
    assert set(np.unique(corrected.mask)) == {0, 1}  # a lesion is the breast's: no organ else is shown


def test_clicks_mean_the_same_place_in_every_format(server: Server) -> None:
    masks = [server.click(study, lesion=[[X, Y, 0]]).mask.tolist() for study in ("gray", "volume", "plane", "nearly")]
    assert masks.count(masks[0]) == len(masks)


def test_empty_lists_and_clicks_outside_the_image_are_no_clicks(server: Server) -> None:
    automatic = server.infer("gray").mask.tolist()
    for request in ({}, {"lesion": [], "background": []}, {"foreground": [[5000, -3, 0]]}, {"roi": [], "mask": ""}):
        assert server.click("gray", **request).mask.tolist() == automatic


def test_box_keeps_its_structure_inside(server: Server) -> None:
    left, top, right, bottom = X - 22, Y - 15, X + 22, Y + 15
    box, automatic = [left, top, right, bottom], server.click("gray").mask
    answers = [
        server.click("gray", box=box, label="lesion"),
        server.click("gray", roi=box, label="lesion"),  # CVAT
        server.click("gray", roi=[left, right, top, bottom, 0, 0], label="lesion"),  # 3D Slicer
    ]
    for answer in answers:
        lesion = answer.mask == 1
        assert lesion[top : bottom + 1, left : right + 1].sum() == lesion.sum() == (answer.mask > 0).sum() > 0
        assert answer.mask.tolist() == answers[0].mask.tolist()
        assert answer.mask.tolist() != automatic.tolist()


def test_former_mask_changes_the_result(server: Server) -> None:
    former, file = np.zeros((70, 104), np.uint8), io.BytesIO()
    former[Y - 12 : Y + 12, X - 18 : X + 18] = 255
    Image.fromarray(former).save(file, "PNG")
    request = {"lesion": [[X, Y, 0]], "label": "lesion"}
    corrected = server.click("gray", **request, mask=base64.b64encode(file.getvalue()).decode())
    assert corrected.mask[Y, X] == 1
    assert corrected.mask.tolist() != server.click("gray", **request).mask.tolist()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"foreground": [[1]]}, "foreground must be a list of clicks [x, y] or [x, y, z], got [[1]]"),
        ({"lesion": "here"}, "lesion must be a list of clicks [x, y] or [x, y, z], got 'here'"),
        ({"box": [1, 2, 3]}, "box must be four numbers [x, y, x, y], got [1, 2, 3]"),
        ({"mask": "no picture"}, "mask must be a PNG in base64"),
        (
            {"foreground": [[float("nan"), 5]]},
            "foreground must be a list of clicks [x, y] or [x, y, z], got [[nan, 5]]",
        ),
        ({"nerve": [[1, 2]] * 1000}, "nerve must hold at most 200 clicks together with the other keys of the request"),
        ({"roi": [500, 5, 600, 9]}, "box or roi must overlap the image, 104 x 70 pixels (x, y), got [500"),
        ({"label": 5}, "label must be the name of a structure, got 5"),
        ({"position": 5}, "position must be one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_malformed_guidance_is_an_error_that_names_the_key(
    server: Server, request_: dict[str, Any], message: str
) -> None:
    before = len(server.printed.read_text())
    answer = server.ask("gray", server.click_model, **request_)
    assert answer.status_code == 500
    assert message in answer.json()["detail"]
    assert server.infer("gray").mask.shape == (70, 104)
    assert message in server.printed.read_text()[before:]  # clients show "Internal Server Error"
