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

from bundle.transforms import DrawGuidanced, LoadUltrasoundd, PlanInteractiond
from bundle.transforms.guidance import counting_points, hold_to_guidance

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/inference.yaml")
STRUCTURES = ["background", "Lesion", "nerve"]
NOTHING: dict[str, Any] = {"wanted": [], "unwanted": [], "box": None, "mask": None}


def png(pixels: np.ndarray) -> str:
    """A PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Shipped(NamedTuple):
    """The transforms of the shipped inference.yaml, and the rest of it."""

    before: Compose
    after: Compose
    parser: ConfigParser


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    return Shipped(*(parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing")), parser)


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


SEEN = np.zeros((4, 8, 8), np.float32)
SEEN[2, :4], SEEN[1, 4:] = 0.2, 0.1  # of the third structure above, of the second below


def hold(mask: np.ndarray, **slots: dict[str, Any]) -> np.ndarray:
    """The mask after guidance ``s<slot>={...}``."""
    held = mask.copy()
    hold_to_guidance(held, {int(name[1:]): {**NOTHING, **said} for name, said in slots.items()}, SEEN)
    return held


def blocks() -> np.ndarray:
    """20 x 30 pixels with two blocks of structure 3 and one of structure 1."""
    mask = np.zeros((20, 30), np.uint8)
    mask[2:6, 3:9] = mask[12:18, 20:28] = 3
    mask[8:11, 10:16] = 1
    return mask


def test_a_structure_stays_inside_its_box_to_the_pixel() -> None:
    mask = np.full((20, 30), 1, np.uint8)
    for box, rows, columns in (
        ((3, 4, 9, 12), (3, 9), (4, 12)),
        ((2.5, 3.2, 9.9, 12.0), (3, 9), (4, 12)),
        ((-5, -7, 4, 40), (0, 4), (0, 29)),
        ((4.3, 6.2, 4.6, 6.4), (4, 4), (6, 6)),  # smaller than a pixel
        ((19.5, 29.5, 25, 35), (19, 19), (29, 29)),  # touches the corner
    ):
        for slot in ("s1", "s0"):
            found = np.argwhere(hold(mask, **{slot: {"box": box}}))
            assert found.min(0).tolist() == [rows[0], columns[0]]
            assert found.max(0).tolist() == [rows[1], columns[1]]
    assert (hold(mask, s2={"box": (3, 4, 9, 12)}) == 1).all()  # another structure's box
    assert (hold(mask, s0={"box": (3, 4, 9, 12)}, s1={"wanted": [(0, 0)]}) == 1).all()  # the box of what has no name


def test_where_nothing_is_wanted_nothing_stays() -> None:
    mask, expected = blocks(), blocks()
    expected[2:6, 3:9] = 0  # the whole block, which nobody asked for; the other block stays
    assert np.array_equal(hold(mask, s1={"wanted": [(9, 12)], "unwanted": [(3, 4)]}), expected)
    expected = blocks()
    expected[8, 10] = 0  # of what is guided the place alone
    assert np.array_equal(hold(mask, s1={"wanted": [(9, 12)], "unwanted": [(8.4, 9.6)]}), expected)
    assert np.array_equal(hold(mask, s1={"wanted": [(9, 12)], "unwanted": [(0, 0)]}), blocks())


def test_a_wanted_place_goes_before_an_unwanted_one() -> None:
    mask = blocks()
    held = hold(mask, s1={"wanted": [(3, 4)], "unwanted": [(3, 4)]}, s3={"wanted": [(0, 0)], "unwanted": [(3, 4)]})
    assert (held[3, 4], held[0, 0]) == (1, 3)
    mask[3, 4], mask[0, 0] = 1, 3
    assert np.array_equal(held, mask)
    both = hold(blocks(), s1={"wanted": [(0, 0)], "unwanted": [(0, 0)]}, s2={"wanted": [(0, 0)], "unwanted": [(0, 0)]})
    assert both[0, 0] == 2


def test_a_wanted_place_without_a_name_is_the_most_probable_structure_there() -> None:
    held = hold(np.zeros((20, 30), np.uint8), s0={"wanted": [(0, 0), (19, 29), (3, 4)], "unwanted": [(3, 4)]})
    assert np.argwhere(held).tolist() == [[0, 0], [3, 4], [19, 29]]
    assert (held[0, 0], held[19, 29]) == (3, 2)


def test_clicks_outside_their_box_do_not_count() -> None:
    said = {"wanted": [(3, 4), (10, 4), (-3, 4)], "unwanted": [(10, 4)], "box": (2, 2, 6, 6)}
    assert counting_points({**NOTHING, **said}, (20, 30)) == {"wanted": [(3, 4)], "unwanted": [(10, 4)]}
    assert hold(np.ones((20, 30), np.uint8), s1=said)[10, 4] == 0


def answer(shipped: Shipped, path: str, **request: Any) -> dict[str, Any]:
    """The shipped way of a request, by a network that sees vessel everywhere and lesion in the left half."""
    item = shipped.before({"image": path, "image_path": path, **request})
    seg = torch.zeros(5, 224, 224)
    seg[4], seg[1, :, :112] = 5.0, 9.0
    inferer = shipped.parser.get_parsed_content("inferer")
    outputs = inferer(item["image"][None], Sees(seg))
    done: dict[str, Any] = shipped.after({**item, "pred": {name: out[0] for name, out in outputs.items()}})
    return done


class Sees(torch.nn.Module):
    """A network that sees the same in every image, guided or not."""

    def __init__(self, seg: torch.Tensor) -> None:
        super().__init__()
        self.seg = seg

    def forward(self, image: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        return self.seg.expand(len(image), -1, -1, -1)

    def predict(self, image: torch.Tensor, prompt: torch.Tensor) -> dict[str, torch.Tensor]:
        sets = {"breast": 3, "lung": 3, "gallbladder": 2}
        return {"seg": self(image, prompt).clone(), **{f"cls_{n}": torch.zeros(len(image), k) for n, k in sets.items()}}


@pytest.mark.parametrize("size", [(56, 112), (471, 562), (900, 900)])
def test_a_background_click_becomes_no_other_structure(shipped: Shipped, tmp_path: Path, size: tuple[int, int]) -> None:
    path = str(save(tmp_path, np.zeros(size, np.uint8), ".png"))
    row, column = size[0] // 2, size[1] // 3
    for position in ("unknown", "breast", "limb"):
        request = {"lesion": [[column, row, 0]], "background": [[column + 20, row, 0]], "position": position}
        mask = answer(shipped, path, **request)["pred"].numpy().T
        assert (mask[row, column], mask[row, column + 20]) == (1, 0)
        assert 4 not in mask  # where a limb was said, the background click takes the vessel away that it lies in


def test_a_box_without_a_finding_says_so(shipped: Shipped, wide: str) -> None:
    found = answer(shipped, wide, box=[10, 5, 20, 15], label="lesion")
    mask = found["pred"].numpy().T
    assert np.argwhere(mask).min(0).tolist() == [5, 10]
    assert np.argwhere(mask).max(0).tolist() == [15, 20]
    assert set(np.unique(mask)) == {0, 1}
    assert found["result"]["notes"] == ""
    empty = answer(shipped, wide, box=[80, 5, 90, 15], label="lesion")
    assert not empty["pred"].any()
    assert empty["result"]["notes"] == "lesion: nothing was found in the box"


@pytest.mark.parametrize("box", [[112, 5, 120, 9], [-9, -9, -1, -1], [5, 56, 9, 80], [1e300, 0, 1e308, 9]])
def test_a_box_beside_the_image_is_refused(shipped: Shipped, wide: str, box: list[float], reasons: Any) -> None:
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        shipped.before({"image": wide, "box": box})
    assert "image.png: box or roi must overlap the image, 112 x 56 pixels (x, y), got [" in reasons(caught.value)


@pytest.mark.parametrize("box", [[-1e300, -5, 1e300, 9], [30, 20, -4, 3]])
def test_a_box_across_the_border_is_cut(shipped: Shipped, wide: str, box: list[float]) -> None:
    rows, columns = np.nonzero(answer(shipped, wide, box=box, label="lesion")["pred"].numpy().T)
    assert (columns.min(), rows.max()) == (0, max(box[1], box[3]))


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
