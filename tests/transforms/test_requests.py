# SPDX-License-Identifier: Apache-2.0
import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.transforms import ReadRequestd

STRUCTURES = ["background", "Lesion", "nerve"]
NOTHING: dict[str, Any] = {"wanted": [], "unwanted": [], "box": None, "mask": None}


def png(pixels: np.ndarray, mode: str | None = None) -> str:
    """A PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def read(**request: Any) -> dict[int, dict[str, Any]]:
    guidance: dict[int, dict[str, Any]] = ReadRequestd(STRUCTURES)({"image": "a.png", **request})["guidance"]
    return guidance


# clicks come as [x, y] or [x, y, z] and are kept as (row, column)
DIALECTS: dict[str, tuple[dict[str, Any], dict[int, dict[str, Any]]]] = {
    "Slicer and OHIF, one structure": (
        {"lesion": [[40, 7, 0], [41, 9, 0]], "background": [[3, 2, 0]]},
        {1: {"wanted": [(7, 40), (9, 41)], "unwanted": [(2, 3)]}},
    ),
    "Slicer and OHIF, the other ones empty": (
        {"lesion": [[40, 7, 0]], "nerve": [], "background": []},
        {1: {"wanted": [(7, 40)]}},
    ),
    "a click on one structure counts against the other": (
        {"lesion": [[40, 7, 0]], "nerve": [[5, 6, 0]], "background": [[3, 2, 0]]},
        {
            1: {"wanted": [(7, 40)], "unwanted": [(2, 3), (6, 5)]},
            2: {"wanted": [(6, 5)], "unwanted": [(2, 3), (7, 40)]},
        },
    ),
    "deepgrow, not named": (
        {"foreground": [[40, 7, 0]], "background": [[3, 2, 0]]},
        {0: {"wanted": [(7, 40)], "unwanted": [(2, 3)]}},
    ),
    "deepgrow, named": (
        {"foreground": [[40, 7, 0]], "background": [], "label": "NERVE"},
        {2: {"wanted": [(7, 40)]}},
    ),
    "deepgrow, a name that no structure has": (
        {"foreground": [[40, 7, 0]], "label": "spleen"},
        {0: {"wanted": [(7, 40)]}},
    ),
    "deepgrow, background": (
        {"foreground": [[40, 7, 0]], "background": [[3, 2]], "label": "Background"},
        {0: {"unwanted": [(2, 3), (7, 40)]}},
    ),
    "deepgrow, background, beside a structure": (
        {"foreground": [[40, 7]], "label": ["background"], "lesion": [[1, 2]]},
        {1: {"wanted": [(2, 1)], "unwanted": [(7, 40)]}},
    ),
    "named clicks add to the structure's own": (
        {"lesion": [[1, 2]], "foreground": [[3, 4]], "label": "lesion"},
        {1: {"wanted": [(2, 1), (4, 3)]}},
    ),
    "unnamed clicks count against named ones": (
        {"lesion": [[1, 2]], "foreground": [[3, 4]]},
        {0: {"wanted": [(4, 3)], "unwanted": [(2, 1)]}, 1: {"wanted": [(2, 1)], "unwanted": [(4, 3)]}},
    ),
    "CVAT": (
        {"foreground": [[40, 7], [41, 9]], "background": [[3, 2]], "output": "mask"},
        {0: {"wanted": [(7, 40), (9, 41)], "unwanted": [(2, 3)]}},
    ),
    "background alone": ({"background": [[3, 2]]}, {0: {"unwanted": [(2, 3)]}}),
    "background alone, named": ({"background": [[3, 2]], "label": "nerve"}, {2: {"unwanted": [(2, 3)]}}),
    "box": ({"box": [30, 4, 10, 20], "label": "lesion"}, {1: {"box": (4, 10, 20, 30)}}),
    "box and click": (
        {"box": [10, 4, 30, 20], "foreground": [[12, 5]], "background": [[29, 5]]},
        {0: {"box": (4, 10, 20, 30), "wanted": [(5, 12)], "unwanted": [(5, 29)]}},
    ),
    "box of the one structure that is clicked at": (
        {"box": [10, 4, 30, 20], "nerve": [[12, 5]], "background": [[29, 5]]},
        {2: {"box": (4, 10, 20, 30), "wanted": [(5, 12)], "unwanted": [(5, 29)]}},
    ),
    "region of interest of 3D Slicer": ({"roi": [10, 30, 4, 20, 0, 1]}, {0: {"box": (4, 10, 20, 30)}}),
    "box before region of interest": ({"roi": [0, 0, 9, 9], "box": [10, 4, 30, 20]}, {0: {"box": (4, 10, 20, 30)}}),
    "nothing said": ({}, {}),
    "empty": ({"foreground": [], "background": [], "roi": [], "box": [], "mask": "", "lesion": [], "label": ""}, {}),
    "none": (dict.fromkeys(("foreground", "background", "roi", "box", "mask", "lesion", "nerve", "label")), {}),
    "a name in a list": ({"foreground": [[40, 7]], "label": ["Lesion"]}, {1: {"wanted": [(7, 40)]}}),
    "a name in a list, with a box": ({"box": [30, 4, 10, 20], "label": ["lesion"]}, {1: {"box": (4, 10, 20, 30)}}),
    "no name in a list": ({"foreground": [[40, 7]], "label": []}, {0: {"wanted": [(7, 40)]}}),
    "label is the mask file of a data list": ({"label": ["a_mask.png"]}, {}),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_client_is_understood(name: str) -> None:
    request, expected = DIALECTS[name]
    assert read(**request) == {slot: {**NOTHING, **said} for slot, said in expected.items()}


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_a_former_mask_is_a_png(mode: str) -> None:
    pixels = np.array([[0, 255, 0], [0, 255, 255]], np.uint8)
    guidance = read(mask=png(pixels, mode), label="lesion")
    assert list(guidance) == [1]
    found = guidance[1].pop("mask")
    assert found.dtype == bool
    assert found.tolist() == (pixels > 0).tolist()
    assert guidance[1] == {key: value for key, value in NOTHING.items() if key != "mask"}


def test_a_former_mask_may_hold_structure_indices() -> None:
    pixels = np.array([[0, 1, 2]], np.uint8)
    assert read(mask=png(pixels))[0]["mask"].tolist() == [[False, True, True]]
    palette = Image.fromarray(pixels)
    palette.putpalette([9, 9, 9, 0, 0, 0, 0, 0, 0])  # index 0 is not black, the others are
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert read(mask=text)[0]["mask"].tolist() == [[False, True, True]]


def test_prompts_that_come_as_their_choices_become_the_first() -> None:
    request = {"image": "a.png", "position": ["breast", "lung"], "nature": ("tumor", "organ"), "task": "segmentation"}
    item = ReadRequestd(STRUCTURES)(request)
    assert {key: item[key] for key in ("position", "nature", "task")} == {
        "position": "breast",
        "nature": "tumor",
        "task": "segmentation",
    }
    assert request["position"] == ["breast", "lung"]
    assert "position" not in ReadRequestd(STRUCTURES)({"image": "a.png"})
    assert ReadRequestd(STRUCTURES)({"image": "a.png", "position": []})["position"] == "unknown"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"foreground": [40, 7]}, r"foreground must be a list of clicks \[x, y\] or \[x, y, z\], got \[40, 7\]"),
        ({"foreground": [[40]]}, r"foreground must be a list of clicks .*got \[\[40\]\]; correct it"),
        ({"lesion": [["a", "b"]]}, r"lesion must be a list of clicks .*got \[\['a', 'b'\]\]"),
        ({"background": "[[1, 2]]"}, r"background must be a list of clicks .*got '\[\[1, 2\]\]'"),
        ({"box": [1, 2, 3]}, r"box must be four numbers \[x, y, x, y\], got \[1, 2, 3\]; correct it"),
        ({"roi": [1, 2, "x", 4]}, r"roi must be four numbers \[x, y, x, y\], got \[1, 2, 'x', 4\]"),
        ({"box": [1, 2, 3, 4, 5]}, r"box must be four numbers \[x, y, x, y\], got \[1, 2, 3, 4, 5\]"),
        ({"box": 5}, r"box must be four numbers \[x, y, x, y\], got 5"),
        ({"mask": "no base64!"}, r"mask must be a PNG in base64, got something else \(.*; encode the mask's file"),
        ({"mask": base64.b64encode(b"no picture").decode()}, r"mask must be a PNG in base64, got something else"),
        ({"mask": [[0, 1]]}, r"mask must be a PNG in base64, got something else"),
        ({"mask": png(np.zeros((64, 64), np.uint8))[:40]}, r"mask must be a PNG in base64, got something else"),
    ],
)
def test_what_is_no_guidance_is_named(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**request_)


NAN, INFINITE = float("nan"), float("inf")
NO_CLICKS: list[Any] = [
    [NAN, 5],
    [5, INFINITE],
    [1e999, 5, 0],
    [5, 5, NAN],
    [True, 5],
    ["5", "5"],
    [10**400, 5],
    [[1], 2],
]
NO_CLICKS += [{"x": 1, "y": 2}, "12", 7, None, [], [1, 2, 3, 4]]
NO_BOXES: list[Any] = ["1234", {"a": 1}, True, 0, [1, 2, 3, NAN], [1, 2, 3, INFINITE], [1, 2, 3, "4"], [1, 2, 3, None]]
NO_BOXES += [[[1, 2], [3, 4]], [1, 2, 3, 10**400], [1] * 7, [False, 1, 2, 3]]


@pytest.mark.parametrize("click", NO_CLICKS)
@pytest.mark.parametrize("key", ["lesion", "foreground", "background"])
def test_a_click_is_two_or_three_finite_numbers(key: str, click: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be a list of clicks \[x, y\] or \[x, y, z\], got \["):
        read(**{key: [[1, 2, 0], click]})


@pytest.mark.parametrize("value", [{"x": 1}, 5, 0, True, "here", {}])
def test_clicks_are_a_list(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^nerve must be a list of clicks"):
        read(nerve=value)


@pytest.mark.parametrize("box", NO_BOXES)
@pytest.mark.parametrize("key", ["box", "roi"])
def test_a_box_is_four_finite_numbers(key: str, box: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be four numbers \[x, y, x, y\], got "):
        read(**{key: box})


def test_a_wrong_value_is_shown_in_part() -> None:
    with pytest.raises(ValueError, match=r"got \[\[0, 0\], .*\.\.\.; correct it") as caught:
        read(lesion=[*[[0, 0]] * 100, "x"])
    assert len(str(caught.value)) < 250


def test_two_hundred_clicks_are_the_most_in_a_request() -> None:
    assert len(read(lesion=[[1, 2]] * 150, background=[[3, 4]] * 50)[1]["wanted"]) == 150
    message = "lesion must hold at most 200 clicks together with the other keys of the request, got 151, 201 in all"
    with pytest.raises(ValueError, match=message):
        read(lesion=[[1, 2]] * 151, background=[[3, 4]] * 50)
    with pytest.raises(ValueError, match=r"background must hold at most 200 clicks .* got 100000, 100000 in all"):
        read(background=["no click"] * 100_000)


def bomb(side: int) -> str:
    """A PNG of a few bytes whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("side", [10_000, 50_000])
def test_a_mask_of_too_many_pixels_is_not_unpacked(side: int) -> None:
    with pytest.raises(ValueError, match=rf"^mask must be a PNG in base64, got something else \(.*({side}|{side**2})"):
        read(mask=bomb(side))


@pytest.mark.parametrize("value", [5, True, {"a": 1}, [[0, 1]], "ä", base64.b64encode(b"GIF89a").decode()])
def test_a_mask_of_another_type_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^mask must be a PNG in base64, got something else"):
        read(mask=value)


def test_what_is_transparent_is_no_mask() -> None:
    pixels = np.zeros((1, 4, 4), np.uint8)
    pixels[0] = [[255, 255, 255, 0], [255, 255, 255, 255], [0, 0, 0, 255], [0, 0, 1, 1]]
    assert read(mask=png(pixels))[0]["mask"].tolist() == [[False, True, False, True]]
    assert read(mask=png(pixels[..., :3]))[0]["mask"].tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("label", [5, True, {"a": 1}])
def test_a_label_is_a_name(label: Any) -> None:
    with pytest.raises(ValueError, match=r"^label must be the name of a structure, got "):
        read(label=label, foreground=[[1, 2]])


@pytest.mark.parametrize("guidance", [{"foreground": [[1, 2]]}, {"box": [1, 2, 3, 4]}, {"background": [[1, 2]]}])
def test_of_several_names_none_is_chosen(guidance: dict[str, Any]) -> None:
    assert list(read(label=["lesion", "nerve"], nerve=[[1, 2]])) == [2]
    with pytest.raises(
        ValueError, match=r"^label must be the name of one structure, got \['lesion', 'nerve'\]; send one"
    ):
        read(label=["lesion", "nerve"], **guidance)
    with pytest.raises(ValueError, match=r"^label must be the name of a structure, got 5"):
        read(label=[5], **guidance)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": "", "image_path": ""}, "^image must be the id of an image that the server has, got another id"),
        ({"image": 5}, "^image must be the id of an image that the server has, got 5"),
        ({"image": None}, "^image must be the id"),
        ({"image_path": "/tmp/tmpa1"}, r"^file must have a name that ends with one of \.png .*, got 'tmpa1'; send it"),
        ({"image_path": "/tmp/a.v2.final"}, r"^file must have a name that ends with .*, got 'a\.v2\.final'"),
        ({"result_extension": ".exe"}, r"^result_extension must be one of \.png .*, got '\.exe'"),
        ({"result_extension": "/../../x.png"}, r"^result_extension must be one of \.png"),
        ({"result_extension": 5}, r"^result_extension must be one of \.png .*, got 5"),
    ],
)
def test_images_and_files_that_cannot_be_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**given)


def test_files_with_a_suffix_or_an_asked_one_are_read() -> None:
    for given in ({"image_path": "/tmp/a.v2.PNG"}, {"image_path": "/tmp/tmpa1", "result_extension": ".nrrd"}):
        assert read(lesion=[[1, 2]], **given)[1]["wanted"] == [(2, 1)]
