# SPDX-License-Identifier: Apache-2.0
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from bundle.live import Frame, FrameSegmenter, Letterbox, Picture, Result, blank, build_segmenter
from bundle.live.cine import to_picture
from bundle.live.overlay import draw_result
from bundle.networks.weights import load_network
from bundle.transforms.readers import read_file

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models/model.pt"


@pytest.fixture(scope="module")
def segmenter() -> FrameSegmenter:
    return build_segmenter(ROOT, window=1)


@pytest.fixture(scope="module")
def config() -> ConfigParser:
    """The shipped inference config with its weights in its network."""
    parser = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs/inference.yaml")))
    parser.update({"bundle_root": str(ROOT), "device": "cpu"})
    load_network(parser.get_parsed_content("network"), WEIGHTS)
    return parser


def folder_inference(config: ConfigParser, path: Path, position: str = "unknown") -> dict[str, Any]:
    """What the folder inference makes of one file: its input, label map (H, W) and result in words."""
    item = {"image": str(path), "position": position, "nature": "unknown", "task": "unknown"}
    item = config.get_parsed_content("preprocessing")(item)
    with torch.inference_mode():
        network = config.get_parsed_content("network").eval()
        outputs = config.get_parsed_content("inferer")(item["image"][None], network, prompt=item["prompt"][None])
    item["pred"] = {name: logits[0] for name, logits in outputs.items()}
    done: dict[str, Any] = config.get_parsed_content("postprocessing")(item)
    return {"image": item["image"], "mask": done["pred"].numpy().squeeze().T, "found": done["result"]}


def mask_of(result: Result) -> np.ndarray:
    """The label map (H, W) of a frame."""
    mask: np.ndarray = result.answers["seg"].label_map.numpy()
    return mask


def live(segmenter: FrameSegmenter, path: Path) -> Result:
    return segmenter(Frame(0, 0.0, time.perf_counter(), to_picture(read_file(str(path)))))


def assert_agrees(result: Result, expected: dict[str, Any]) -> None:
    mask, other = mask_of(result), expected["mask"]
    assert mask.shape == other.shape
    for structure in range(1, 5):
        if (total := int((mask == structure).sum() + (other == structure).sum())) > 0.02 * mask.size:
            assert 2 * int(((mask == structure) & (other == structure)).sum()) / total > 0.99
    assert result.found["classes"].keys() == expected["found"]["classes"].keys()
    for name, classes in expected["found"]["classes"].items():
        for label, probability in classes["probabilities"].items():
            assert result.found["classes"][name]["probabilities"][label] == pytest.approx(probability, abs=0.01)


@pytest.mark.parametrize("name", ["cine/itkpocus_sonosite-anon-eye1.jpg", "dicom/pydicomdata_OBXXXX1A.dcm"])
def test_a_real_frame_is_segmented_as_by_the_folder_inference(config: ConfigParser, real_data: Path, name: str) -> None:
    segmenter = build_segmenter(ROOT, prompts={"position": "limb"})
    result, expected = live(segmenter, real_data / name), folder_inference(config, real_data / name, "limb")
    assert (mask_of(result) > 0).sum() > 1000
    assert_agrees(result, expected)
    for key in ("row", "column"):
        assert result.found["spacing_mm"][key] == pytest.approx(expected["found"]["spacing_mm"][key])


@pytest.mark.parametrize("shape", [(201, 236), (90, 61), (236, 201, 3), (224, 224)])
def test_the_network_sees_what_it_sees_in_folder_inference(
    config: ConfigParser, segmenter: FrameSegmenter, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = segmenter.letterbox(to_picture(read_file(str(tmp_path / "a.png"))).pixels)[0]
    expected = folder_inference(config, tmp_path / "a.png")["image"].as_tensor()
    # One level of 255 is 0.018 after the division by the standard deviation; colors are rounded to levels.
    torch.testing.assert_close(seen, expected, atol=0.02 if len(shape) == 3 else 1e-4, rtol=0)


def test_prompted_organ_keeps_its_structures_and_classes() -> None:
    segmenter = build_segmenter(ROOT, prompts={"position": "breast", "nature": None})
    result = segmenter(blank(150, 200))
    assert set(np.unique(mask_of(result))) <= {0, 1}
    assert list(result.found["classes"]) == ["breast"]
    assert segmenter.prompts == {"position": "breast", "nature": "unknown", "task": "unknown"}


def test_letterbox_of_a_known_picture() -> None:
    letterbox = Letterbox(8, mean=[0.5, 0.25, 0.0], std=[0.5, 0.5, 1.0])
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[..., 0] = 255  # blue
    seen = letterbox(pixels)[0]
    assert seen.shape == (3, 8, 8)
    assert seen[:, 0, 0].tolist() == [-1.0, -0.5, 0.0]  # black
    assert seen[:, 3, 3].tolist() == [-1.0, -0.5, 1.0]
    filled = (seen[2] > 0).nonzero()  # 2 x 4 pixels are 4 x 8 in the square, in its middle
    assert (filled.amin(0).tolist(), filled.amax(0).tolist()) == ([2, 0], [5, 7])


def test_vote_acts_on_mask_and_classes() -> None:
    breast = {"position": "breast"}
    segmenter, voting = build_segmenter(ROOT, prompts=breast), build_segmenter(ROOT, prompts=breast, window=2)
    bright = blank(150, 200)
    dark = Frame(1, 0.1, 0.0, Picture(bright.picture.pixels[..., 0] // 2))
    single = [segmenter(frame).found["classes"]["breast"]["probabilities"]["benign"] for frame in (bright, dark)]
    voted = [voting(frame).found["classes"]["breast"]["probabilities"]["benign"] for frame in (bright, dark)]
    assert voted == pytest.approx([single[0], sum(single) / 2], abs=1e-4)


def pictures() -> dict[str, np.ndarray]:
    """Not ultrasound: one gray, a slope, and a page of text."""
    page = np.full((150, 200), 250, np.uint8)
    page[20:140:12, 10:190:3] = 20
    return {
        "one value throughout": np.full((150, 200, 3), 90, np.uint8),
        "without grain": np.tile(np.linspace(60, 200, 200).astype(np.uint8), (150, 1)),
        "it is white": page,
    }


@pytest.mark.parametrize("reason", pictures())
def test_a_frame_that_cannot_be_ultrasound_has_no_result(segmenter: FrameSegmenter, reason: str) -> None:
    result = segmenter(Frame(0, 0.0, time.perf_counter(), Picture(pictures()[reason])))
    assert (mask_of(result).shape, mask_of(result).any()) == ((150, 200), False)
    assert result.found["classes"] == {}
    assert result.found["areas"]["lesion"] == {"pixels": None, "mm2": None}
    assert re.fullmatch(rf"does not look like ultrasound \(.*{reason}\); nothing is reported", result.found["notes"])
    tasks = segmenter.records.tasks
    shown = draw_result(result, tasks)
    assert (shown != draw_result(segmenter_without_check()(result.frame), tasks)).any()


def test_notes_on_the_file_are_those_of_the_frame(segmenter: FrameSegmenter) -> None:
    pixels = blank(150, 200).picture.pixels
    found = segmenter(Frame(0, 0.0, 0.0, Picture(pixels, notes=("a region is left out",)))).found["notes"]
    assert found == "a region is left out"
    page = Picture(pictures()["it is white"], notes=("a region is left out",))
    assert segmenter(Frame(1, 0.1, 0.0, page)).found["notes"].endswith("nothing is reported; a region is left out")


def test_a_frame_that_cannot_be_ultrasound_has_no_part_in_the_vote() -> None:
    bright, page = blank(150, 200), Frame(1, 0.1, 0.0, Picture(pictures()["it is white"]))
    voting, alone = build_segmenter(ROOT, window=3), build_segmenter(ROOT, window=3)
    mixed = [voting(frame).found for frame in (bright, page, bright)][2]
    plain = [alone(frame).found for frame in (bright, bright)][1]
    assert mixed == plain
    assert plain["notes"] == ""


def segmenter_without_check() -> FrameSegmenter:
    return build_segmenter(ROOT, window=1, check_images=False)


def test_the_check_can_be_switched_off() -> None:
    result = segmenter_without_check()(Frame(0, 0.0, 0.0, Picture(pictures()["it is white"])))
    assert result.found["organ"]["predicted"] == "none"
    assert result.found["areas"]["lesion"]["pixels"] == 0
    assert result.found["notes"] == ""


def test_wrong_prompts_weights_and_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="position must be one of"):
        build_segmenter(ROOT, prompts={"position": "brest"})
    with pytest.raises(FileNotFoundError, match="weights must be a file"):
        build_segmenter(ROOT, ckpt_path=str(tmp_path / "gone.pt"))
    with pytest.raises(FileNotFoundError, match="exported model must be a file"):
        build_segmenter(ROOT, runtime="openvino", model_path=str(tmp_path / "gone.xml"))
