# SPDX-License-Identifier: Apache-2.0
"""The shipped configs agree with each other, with metadata.json and with MONAI, and nothing in them is unused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver
from torch import Tensor
from torch.utils.data import default_collate

from bundle.engines import TrainingNetwork
from bundle.engines.held import OPTIONS
from bundle.networks import UPerConvNeXt, build_uperconvnext
from bundle.networks.conversion import AUTHORS_NETWORK
from bundle.tasks import Targetsd
from bundle.tasks.targets import mapped
from bundle.transforms import PlanInteractiond
from bundle.vocabulary import Organs

ROOT = Path(__file__).resolve().parents[1]
CHAINS = {
    "train": ("train.yaml",),
    "inference": ("inference.yaml",),
    "evaluate": ("train.yaml", "evaluate.yaml"),
    "paper": ("train.yaml", "paper.yaml"),
    "multi_gpu": ("train.yaml", "multi_gpu_train.yaml"),
    "paper inference": ("inference.yaml", "paper.yaml"),
    "evaluate_clicks": ("train.yaml", "evaluate_clicks.yaml"),
    "multi_gpu evaluate": ("train.yaml", "evaluate.yaml", "multi_gpu_evaluate.yaml"),
    "multi_gpu inference": ("inference.yaml", "multi_gpu_inference.yaml"),
    "frozen encoder": ("train.yaml", "frozen_encoder.yaml"),
    "prompt tuning": ("train.yaml", "prompt_tuning.yaml"),
    "progressive unfreezing": ("train.yaml", "progressive_unfreezing.yaml"),
    "pretrain": ("pretrain.yaml",),
    "pretrain masked": ("pretrain.yaml", "pretrain_masked.yaml"),
    "multi_gpu pretrain": ("pretrain.yaml", "multi_gpu_pretrain.yaml"),
    "pretrain latent": ("pretrain.yaml", "pretrain_latent.yaml"),
    "pretrain hierarchy": ("pretrain.yaml", "pretrain_masked.yaml", "pretrain_hierarchy.yaml"),
    "pretrain masked and distill": ("pretrain.yaml", "pretrain_masked.yaml", "pretrain_and_distill.yaml"),
    "restore": ("train.yaml", "restore.yaml"),
}
OWN_VALUES = {
    "imports", "output_dir", "dataset_dir", "run", "batch_size", "prompt_transforms", "encoder_weights", "drop_path",
    "tasks", "declared",
}  # fmt: skip
"""Ids of both train.yaml and inference.yaml, each complete alone, that differ; training also drops prompts, and tells
tasks how they are trained."""

READ_BY_MONAI = {
    "imports": "evaluated before anything else",
    "initialize": "evaluated before the run",
    "finalize": "evaluated after the run",
    "run": "the default run id",
    "training": "run id",
    "pretraining": "run id",
    "evaluating": "run id",
    "displayable_configs": "read by MONAI Label",
}


def read(*names: str) -> dict[str, Any]:
    """The merged content of shipped configs, unresolved."""
    content: dict[str, Any] = ConfigParser.load_config_files([str(ROOT / "configs" / name) for name in names])
    return content


def parser(*names: str, **changes: Any) -> ConfigParser:
    merged = ConfigParser(read(*names))
    merged.update({"bundle_root": str(ROOT), **changes})
    return merged


def node(content: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


def leaves(content: Any) -> Iterator[str]:
    """All texts in nested mappings and lists."""
    if isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from leaves(value)
    elif isinstance(content, str):
        yield content


def reached(content: dict[str, Any]) -> set[tuple[str, ...]]:
    """Ids, as paths, that a run gets to by references from the ids that MONAI reads."""
    waiting, seen = [(name,) for name in READ_BY_MONAI if name in content], set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            for text in leaves(node(content, path)):
                waiting += [tuple(ref.split("::")) for ref in ReferenceResolver.match_refs_pattern(text)]
    return seen


@pytest.mark.parametrize("name", sorted(CHAINS.keys() - {"paper inference"}))  # it also holds what training alone needs
def test_every_id_is_used(name: str) -> None:
    """MONAI passes over misspelled ids in silence."""
    content = read(*CHAINS[name])
    used = reached(content)
    ids = {(key,) for key in content if key not in ("train", "validate", "_meta_")}
    ids |= {(part, key) for part in ("train", "validate") for key in content.get(part, {})}
    unused = {path for path in ids if not any(other[: len(path)] == path for other in used)}
    # An overlay may leave parts of train.yaml aside; it must not bring ids that nothing uses.
    added = {
        tuple(key.lstrip("+").split("#"))[:2]
        for key in ConfigParser.load_config_file(ROOT / "configs" / CHAINS[name][-1])
    }
    assert {path for path in unused if path in added or path[:1] in added} == set()


@pytest.mark.parametrize("name", sorted(name for name, files in CHAINS.items() if len(files) > 1))
def test_overlays_change_what_is_there(name: str) -> None:
    """The parent of each leaf that an overlay sets is in the configs below it, with the key or as a component's."""
    content = read(*CHAINS[name][:-1])
    for key in ConfigParser.load_config_file(ROOT / "configs" / CHAINS[name][-1]):
        *parents, last = key.lstrip("+").split("#")
        parent = node(content, tuple(parents))
        assert not parents or "_target_" in parent or last in parent, key


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_overlays_address_names_and_no_places_in_a_list(path: Path) -> None:
    ids = [key for name in ConfigParser.load_config_file(path) for key in ReferenceResolver.split_id(name)]
    assert not [key for key in ids if key.lstrip("-").isdigit()]


@pytest.mark.parametrize("files", CHAINS.values(), ids=CHAINS)
def test_every_reference_has_its_id(files: tuple[str, ...]) -> None:
    content = read(*files)
    for path in reached(content):
        node(content, path)  # KeyError names what is missing


def test_the_two_complete_configs_agree() -> None:
    train, inference = read("train.yaml"), read("inference.yaml")
    shared = (train.keys() & inference.keys()) - OWN_VALUES
    assert {"network_def", "structures", "positions", "vocabulary", "encoder", "norm"} <= shared
    assert {"load_transforms", "letterbox_transforms", "normalize_transforms"} <= shared
    organs = {"_target_": "bundle.engines.held.told_organs", "held": "@held"}
    gate = {"_target_": "bundle.engines.held.told_gate", "held": "@held"}
    held = {**{key: f"$@held[{key!r}]" for key in OPTIONS}, "organs": organs, "gate": gate}
    assert {key: inference[key] for key in held} == held  # what weights tell is not repeated
    shared -= held.keys()
    assert {key: inference[key] for key in shared} == {key: train[key] for key in shared}
    assert {name: task["_target_"] for name, task in inference["tasks"].items()} == {
        name: task["_target_"]
        for name, task in {**train["tasks"], **read("train.yaml", "restore.yaml")["tasks"]}.items()
    }


def test_pretraining_sees_images_as_training_does() -> None:
    train, pretrain = (parser(name) for name in ("train.yaml", "pretrain.yaml"))
    for key in ("encoder", "pooling", "image_mean", "image_std", "cache_side"):
        assert pretrain.get_parsed_content(key) == train.get_parsed_content(key)


def test_metadata_declares_what_the_network_does() -> None:
    metadata = json.loads((ROOT / "configs/metadata.json").read_text())["network_data_format"]
    image, pred = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    network = parser("inference.yaml").get_parsed_content("network_def").eval()
    for n in (1, 2):
        height, width = (int(text.split("*")[0]) * n for text in image["spatial_shape"])
        logits = network(torch.rand(1, image["num_channels"], height, 2 * width))
        assert logits.shape == (1, pred["num_channels"], height, 2 * width)
        assert str(logits.dtype) == f"torch.{pred['dtype']}"
    assert image["spatial_shape"] == pred["spatial_shape"]
    assert list(pred["channel_def"].values()) == parser("train.yaml").get_parsed_content("structures")
    assert list(pred["channel_def"]) == [str(i) for i in range(pred["num_channels"])]


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_bundle_properties_are_complete(tiny_options: Callable[..., dict[str, Any]], tmp_path: Path, name: str) -> None:
    workflow = ConfigWorkflow(
        workflow_type="train",
        config_file=[str(ROOT / "configs" / file) for file in CHAINS[name]],
        meta_file=str(ROOT / "configs/metadata.json"),
        logging_file=False,
        **tiny_options(tmp_path),
    )
    workflow.initialize()
    assert not workflow.check_properties()


def batch(content: ConfigParser, *, size: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Images, prompts and targets with each structure, each class head, and samples without mask and without class."""
    random = torch.Generator().manual_seed(0)
    organs: Organs = content.get_parsed_content("vocabulary")
    tasks = content.get_parsed_content("declared")
    structures, count = len(organs.structures), len(organs.label_sets) + 2
    labels = torch.randint(0, structures, (count, 1, size, size), generator=random)
    items = [
        {"label": label, "labeled": [n > 0] * structures, "classes": {}, "position": "head", "organ": None,
         "points": {"caliper_1": [20.0, 31.5], "caliper_2": None, "long_axis_1": [3.0, 4.0]}}
        for n, label in enumerate(labels)
    ]  # fmt: skip
    for item, name in zip(items, organs.label_sets, strict=False):
        item["classes"] = {name: 1}
    targets = default_collate([Targetsd(tasks)(item)["targets"] for item in items])
    prompt = content.get_parsed_content("network_def").prompt_length
    image = torch.rand(count, 3 + content["guidance_channels"], size, size, generator=random)
    return image, torch.rand(count, prompt, generator=random), targets


@pytest.mark.parametrize("name", ["train", "paper"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    content = parser(*CHAINS[name], drop_path=0.0)
    network: UPerConvNeXt = content.get_parsed_content("network_def")
    for parameter_name, parameter in network.named_parameters():
        if "prompt" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)  # off their zeros, which pass no gradient on
    image, prompt, targets = batch(content, size=64)
    rows = mapped(content.get_parsed_content("declared"), targets, len(image))
    outputs = TrainingNetwork(network, device="cpu", amp=False)(image, prompt, rows)
    content.get_parsed_content("loss")(outputs, {"targets": targets}).backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_paper_overlay_builds_the_papers_network() -> None:
    network: UPerConvNeXt = parser(*CHAINS["paper"]).get_parsed_content("network_def")
    assert sum(p.numel() for p in network.parameters()) == 31_118_995
    expected = build_uperconvnext(**AUTHORS_NETWORK, conditioning="additive")
    assert network.network_config() == expected.network_config()
    assert AUTHORS_NETWORK.items() <= network.network_config().items()


def test_paper_overlay_serves_inference() -> None:
    content = parser(*CHAINS["paper inference"], ckpt_path="none.pt")
    train = parser(*CHAINS["paper"])
    network = content.get_parsed_content("network_def")
    assert network.network_config() == train.get_parsed_content("network_def").network_config()
    outputs = content.get_parsed_content("inferer")(torch.rand(1, 3, 64, 64), network.eval())
    assert {name: value.shape[1] for name, value in outputs.items()} == {"seg": 2, "cls_two": 2, "cls_four": 4}


def test_default_weights_stay_under_25_megabytes() -> None:
    network = parser("train.yaml").get_parsed_content("network_def")
    assert sum(value.nbytes for value in network.state_dict().values()) < 25e6


def test_another_encoder_is_one_option_away() -> None:
    content = parser("train.yaml", encoder="convnext_femto")
    network: UPerConvNeXt = content.get_parsed_content("network_def")
    assert network.encoder.channels == [48, 96, 192, 384]
    assert network.network_config()["encoder"] == "convnext_femto"


def test_a_network_without_click_channels_is_trained_without_users() -> None:
    for channels, prob in ((0, 0.0), (2, 0.5)):
        content = parser("train.yaml", guidance_channels=channels)
        plans = [t for t in content.get_parsed_content("prompt_transforms") if isinstance(t, PlanInteractiond)]
        assert [plan.prob for plan in plans] == [prob]


def test_training_sees_what_inference_sees(tiny_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Without the random moves a training sample is the image that validation and inference give the network."""
    parser = ConfigParser(read("train.yaml"))
    parser.update({**tiny_options(tmp_path), "cache_dir": None, "drop_prompts": 0.0, "interaction_prob": 0.0})
    parser["random_geometry"] = {"_target_": "bundle.transforms.RandGeometryd", "spatial_size": "@image_size"}
    parser["random_transforms"] = parser["random_transforms"][-1:]
    data = parser.get_parsed_content("train#dataset")
    inference = parser.get_parsed_content("validate#preprocessing")
    for place in range(4):
        seen, expected = data[place]["image"], inference(dict(data.data[place]))["image"].as_tensor()
        assert seen.shape == expected.shape
        assert (seen - expected).abs().mean() < 0.02
        assert expected.std() > 0.3


@pytest.mark.parametrize(
    ("dataset", "share", "rate"), [("PhantomBreast", 0.8, 0.002), ("BUSI", 0.0, 0.001), (None, 0.0, 0.001)]
)
def test_only_the_phantom_in_float32_is_trained_on_small_images(dataset: str | None, share: float, rate: float) -> None:
    """The labels of a MONAI Label server name no data set."""
    item = {"image": "a.png", "label": "b.png"} | ({} if dataset is None else {"dataset": dataset})
    content = parser("train.yaml", amp=False, phantom={"_target_": "bundle.data.phantom.is_phantom", "items": [item]})
    assert content.get_parsed_content("small_share") == share
    assert content.get_parsed_content("learning_rate") == rate


def test_the_phantom_in_bfloat16_is_trained_on_full_images() -> None:
    assert parser("train.yaml", phantom=True, precision=torch.bfloat16).get_parsed_content("small_share") == 0.0


def test_weights_without_masks_write_none() -> None:
    for guided in (True, False):
        inference = parser("inference.yaml", declared=[SimpleNamespace(guided=guided)])
        assert (inference.get_parsed_content("sinks#mask") is not None) == guided
