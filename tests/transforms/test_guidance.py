# SPDX-License-Identifier: Apache-2.0
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from bundle.transforms import DrawGuidanced, LoadUltrasoundd, PlanInteractiond, ReadRequestd

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/inference.yaml")
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
    "region of interest of 3D Slicer": ({"roi": [10, 30, 4, 20, 0, 1]}, {0: {"box": (4, 10, 20, 30)}}),
    "box before region of interest": ({"roi": [0, 0, 9, 9], "box": [10, 4, 30, 20]}, {0: {"box": (4, 10, 20, 30)}}),
    "nothing said": ({}, {}),
    "empty": ({"foreground": [], "background": [], "roi": [], "box": [], "mask": "", "lesion": [], "label": ""}, {}),
    "none": (dict.fromkeys(("foreground", "background", "roi", "box", "mask", "lesion", "nerve", "label")), {}),
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


class Shipped(NamedTuple):
    """The transforms of the shipped inference.yaml."""

    before: Compose
    after: Compose


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    return Shipped(parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing"))


LESION = slice(5, 7)  # channels of the first structure: the image has three, the unnamed slot two


def save(folder: Path, pixels: np.ndarray, suffix: str) -> Path:
    """An image file, as PNG or as a study with a third axis."""
    path = folder / f"image{suffix}"
    if suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(pixels.T[..., None].copy(), np.diag([0.2, 0.1, 1, 1])), path)
    return path


def center(weights: torch.Tensor) -> list[float]:
    """Row and column of the center of mass of (H, W)."""
    rows, columns = torch.arange(weights.shape[0]), torch.arange(weights.shape[1])
    total = weights.sum()
    return [float((weights.sum(1) * rows).sum() / total), float((weights.sum(0) * columns).sum() / total)]


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
@pytest.mark.parametrize(
    ("shape", "place"), [((30, 50), (7, 41)), ((50, 30), (41, 7)), ((300, 500), (70, 410)), ((37, 37), (2, 30))]
)
def test_a_click_on_a_bright_spot_lands_on_it(
    shipped: Shipped, tmp_path: Path, shape: tuple[int, int], place: tuple[int, int], suffix: str
) -> None:
    row, column = place
    spot = shape[0] // 100  # pixels on each side of its middle
    pixels = np.zeros(shape, np.uint8)
    pixels[row - spot : row + spot + 1, column - spot : column + spot + 1] = 255
    request = {"lesion": [[column, row, 0]], "background": [[0, shape[0] - 1, 0]]}
    item = shipped.before({"image": str(save(tmp_path, pixels, suffix)), **request})
    image = item["image"].as_tensor()
    assert image.shape == (13, 224, 224)
    wanted, unwanted = image[LESION]
    bright = image[0] - image[0].min()
    assert center(wanted) == pytest.approx(center(bright), abs=0.5)
    assert bright[wanted > 0].max() == bright.max()
    assert wanted.sum() == pytest.approx(np.pi * 25, abs=10)
    # the image's lower left corner: half a native pixel inside the letterboxed image, five pixels below and left of it
    scale = 224 / max(shape)
    lowest, leftmost = 111.5 + (shape[0] - 1) * scale / 2 + 5, 111.5 - (shape[1] - 1) * scale / 2 - 5
    assert unwanted.nonzero()[:, 0].max() == pytest.approx(min(lowest, 223), abs=1)
    assert unwanted.nonzero()[:, 1].min() == pytest.approx(max(leftmost, 0), abs=1)
    assert item["clicks"] == {1: {"wanted": 1, "unwanted": 1}}
    assert not image[3:5].any()
    assert not image[7:].any()


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """An image of 56 x 112 pixels. Doubled, with 56 rows above it: pixel (r, c) comes to (2 r + 56.5, 2 c + 0.5)."""
    random = np.random.default_rng(0)
    return str(save(tmp_path, random.integers(0, 255, (56, 112), np.uint8), ".png"))


def test_a_box_lands_on_its_pixels(shipped: Shipped, wide: str) -> None:
    image = shipped.before({"image": wide, "box": [10, 5, 20, 15], "label": "lesion"})["image"]
    wanted, unwanted = image[LESION].as_tensor()
    expected = torch.ones(224, 224)
    expected[67:87, 21:41] = 0  # rows 66.5 to 86.5, columns 20.5 to 40.5
    assert torch.equal(unwanted, expected)
    assert not wanted.any()


@pytest.mark.parametrize(("left", "column"), [(1000, 112), (1003, 112), (1005, 112), (1009, 113)])
def test_a_box_smaller_than_a_pixel_of_the_grid_is_one_pixel(
    shipped: Shipped, tmp_path: Path, left: int, column: int
) -> None:
    path = str(save(tmp_path, np.zeros((2000, 2000), np.uint8), ".png"))  # 8.93 pixels become one
    image = shipped.before({"image": path, "box": [left, 500, left + 3, 502], "label": "lesion"})["image"]
    inside = (image[LESION][1] == 0).nonzero().tolist()
    assert inside == [[56, column]]  # middles: row 55.7; 111.7, 112.0, 112.3, 112.7


def test_a_former_mask_lands_on_its_pixels(shipped: Shipped, wide: str) -> None:
    mask = np.random.default_rng(1).random((56, 112)) > 0.5
    image = shipped.before({"image": wide, "mask": png(mask), "label": "lesion"})["image"]
    wanted, unwanted = image[LESION].as_tensor()
    expected = torch.zeros(224, 224)
    expected[56:168] = torch.from_numpy(0.5 * mask.repeat(2, 0).repeat(2, 1))
    assert torch.equal(wanted, expected)
    assert not unwanted.any()


def test_a_former_mask_of_another_size_is_refused(
    shipped: Shipped, wide: str, reasons: Callable[[BaseException], str]
) -> None:
    for shape, got in (((112, 56), "112x56"), ((224, 224), "224x224")):
        with pytest.raises(RuntimeError, match=r"applying transform .*DrawGuidanced") as caught:  # MONAI's Compose
            shipped.before({"image": wide, "mask": png(np.zeros(shape, np.uint8))})
        assert (
            f"image.png: mask must have the size of the image, 56x112 (rows x columns), got {got}; send the mask of"
            " this image." in reasons(caught.value)
        )


def test_clicks_beside_the_image_are_dropped(shipped: Shipped, wide: str) -> None:
    beside = [[-1, 3], [112, 3], [3, -0.6], [3, 55.6]]
    item = shipped.before({"image": wide, "lesion": [*beside, [111.4, 3]], "background": beside})
    wanted, unwanted = item["image"][LESION].as_tensor()
    assert item["clicks"] == {1: {"wanted": 1, "unwanted": 0}}
    assert wanted.sum() < 81  # half a disk at the border
    assert not unwanted.any()
    assert shipped.before({"image": wide, "lesion": beside})["clicks"] == {1: {"wanted": 0, "unwanted": 0}}


def test_each_structure_has_its_channels(shipped: Shipped, wide: str) -> None:
    item = shipped.before({"image": wide, "foreground": [[9, 9]], "vessel": [[30, 9]], "nerve": [[60, 9]]})
    channels = item["image"].as_tensor()[3:].unflatten(0, (5, 2))  # slot, wanted and unwanted
    assert channels.flatten(2).any(2).tolist() == [[True] * 2, [False] * 2, [False] * 2, [True] * 2, [True] * 2]
    assert torch.equal(channels[0, 1], torch.maximum(channels[3, 0], channels[4, 0]))
    assert torch.equal(channels[4, 1], torch.maximum(channels[0, 0], channels[3, 0]))


def test_without_guidance_the_image_stays(shipped: Shipped, wide: str) -> None:
    plain = shipped.before({"image": wide})
    assert plain["image"].shape == (3, 224, 224)
    assert not {"guidance", "clicks"} & set(plain)
    guided = shipped.before({"image": wide, "foreground": [[9, 9]], "position": "breast"})
    assert torch.equal(guided["image"][:3].as_tensor(), plain["image"].as_tensor())
    assert "guidance" not in guided


def test_the_drawing_leaves_its_input_alone(wide: str) -> None:
    item = LoadUltrasoundd("image")({"image": wide})
    item["guidance"] = {0: {**NOTHING, "wanted": [(5.0, 9.0)]}}
    drawn = DrawGuidanced(STRUCTURES, 3.0)(item)
    assert item["image"].shape == (3, 56, 112)
    assert "guidance" in item
    assert drawn["image"].shape == (9, 56, 112)
    assert drawn["image"][3, 5, 12] == 1
    assert drawn["image"][3].sum() == 29  # lattice points with x^2 + y^2 <= 9


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
@pytest.mark.parametrize("tall", [False, True])
def test_history_survives_and_the_prediction_returns_to_the_study(
    shipped: Shipped, tmp_path: Path, suffix: str, tall: bool
) -> None:
    pixels = np.zeros((64, 128), np.uint8)
    pixels[4:20, 8:40] = 255
    pixels = pixels.T.copy() if tall else pixels
    place = [12, 24] if tall else [24, 12]
    path = save(tmp_path, pixels, suffix)
    item = shipped.before({"image": str(path), "lesion": [place], "background": [place[::-1]], "position": "breast"})
    plain = shipped.before({"image": str(path), "position": "breast"})["image"]
    assert isinstance(item["image"], MetaTensor)
    assert [done["class"] for done in item["image"].applied_operations] == [
        done["class"] for done in plain.applied_operations
    ]
    assert item["image"].meta["prompt"].tolist() == plain.meta["prompt"].tolist()
    assert torch.equal(item["image"].affine, plain.affine)
    bright = item["image"].as_tensor()[0] > 0  # a network that sees lesion where it is bright
    item["pred"] = {
        "seg": torch.stack([~bright, bright, *[~bright * 0] * 3]).float() * 40,
        "cls_breast": torch.zeros(3),
    }
    done = shipped.after(item)
    study = pixels.T == 255
    assert np.array_equal(done["pred"].numpy() == 1, study if suffix == ".png" else study[..., None])
    assert done["result"]["areas"]["lesion"]["pixels"] == 16 * 32
    assert done["result"]["clicks"] == {"lesion": {"wanted": 1, "unwanted": 1}}


def plans(transform: PlanInteractiond, count: int = 4000) -> np.ndarray:
    return np.stack([transform({})["interaction"].numpy() for _ in range(count)])


def test_how_users_act_follows_the_probabilities() -> None:
    drawn = plans(PlanInteractiond(0.5).set_random_state(seed=0))
    guided = drawn[drawn[:, :2].any(1)]
    clicks, box, former, seed = guided.T
    # half have a user; a box without a click (0.25 * 0.45) is one too
    assert len(guided) / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert not drawn[~drawn[:, :2].any(1)].any()
    assert box.mean() == pytest.approx(0.25, abs=0.03)
    assert former.mean() == pytest.approx(0.25, abs=0.03)
    # each further click with 0.55, at most ten: (1 - 0.55^10) / 0.45 in the mean, with a box 0.55 times that
    assert clicks[box == 0].mean() == pytest.approx(2.22, abs=0.15)
    assert clicks[box == 1].mean() == pytest.approx(1.22, abs=0.25)
    assert (clicks[box == 0].min(), clicks[box == 1].min(), clicks.max()) == (1, 0, 10)
    assert len(np.unique(seed)) > 0.99 * len(guided)
    assert 0 <= seed.min() < seed.max() < 2**31


def test_the_plan_is_four_whole_numbers() -> None:
    item = {"image": "a.png"}
    plan = PlanInteractiond(1.0, max_clicks=1, more_prob=1.0, box_prob=0.0, mask_prob=1.0)(item)
    assert list(item) == ["image"]
    assert plan["image"] == "a.png"
    assert plan["interaction"].dtype == torch.int64
    assert plan["interaction"][:3].tolist() == [1, 0, 1]
    box = PlanInteractiond(1.0, more_prob=0.0, box_prob=1.0, mask_prob=0.0)({})["interaction"]
    assert box[:3].tolist() == [0, 1, 0]


def test_plans_follow_the_seed() -> None:
    one, again, other = (plans(PlanInteractiond().set_random_state(seed=s), 50).tolist() for s in (1, 1, 2))
    assert one == again
    assert one != other


def test_probability_zero_is_no_user() -> None:
    assert not plans(PlanInteractiond(0.0), 200).any()
