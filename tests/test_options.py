# SPDX-License-Identifier: Apache-2.0
"""Options that no config has, and numbers where text is wanted, stop each shipped workflow before it does anything."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, run, run_workflow
from PIL import Image

from bundle.options import NAMES, PATHS

ROOT = Path(__file__).resolve().parents[1]
TRAIN, EVALUATE, CLICKS, INFERENCE = "train.yaml", "evaluate.yaml", "evaluate_clicks.yaml", "inference.yaml"
Reasons = Callable[[BaseException], str]


def start(folder: Path, *files: str, runner: Callable[..., None] = run, **options: Any) -> None:
    """Starts shipped configs, by name, or others, by path, with all outputs in a folder."""
    configs = [str(ROOT / "configs" / name) for name in files]
    places = {"bundle_root": str(ROOT), "output_dir": str(folder / "out"), "dataset_dir": str(folder)}
    places |= {"ckpt_dir": str(folder / "models")}
    runner(config_file=configs, logging_file=False, **{**places, **options})


@pytest.mark.parametrize(
    ("files", "option", "nearest"),
    [
        ((TRAIN,), "max_epoch", "max_epochs"),
        ((TRAIN,), "train#trainer#max_epoch", "train#trainer#max_epochs"),
        ((TRAIN,), "train::trainer::max_epoch", "train#trainer#max_epochs"),
        ((TRAIN,), "train#sampeler", "train#sampler"),
        ((TRAIN, "paper.yaml"), "warmup_epoch", "warmup_epochs"),
        ((TRAIN, EVALUATE), "validate#dataset#data#splits", "validate#dataset#data#split"),
        ((TRAIN, EVALUATE), "protocoll", "protocol"),
        ((TRAIN, CLICKS), "max_click", "max_clicks"),
        ((INFERENCE,), "positon", "position"),
        ((INFERENCE, "paper.yaml"), "dataset_dirs", "dataset_dir"),
        ((TRAIN,), "metafile", "meta_file"),
    ],
)
def test_an_id_that_no_config_has_is_refused_with_the_nearest(
    tmp_path: Path, reasons: Reasons, files: tuple[str, ...], option: str, nearest: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, *files, **{option: 1})
    text = reasons(caught.value)
    assert f"--{option} must be an id of the config" in text
    assert f"did you mean --{nearest}?" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["structures", "positions", "label_sets", "organ_structures"])
@pytest.mark.parametrize("file", [TRAIN, INFERENCE])
def test_an_option_that_the_table_of_organs_replaced_is_refused(
    tmp_path: Path, reasons: Reasons, file: str, option: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, file, **{option: ["background", "lesion"]})
    assert f"--{option} must be told by organs" in reasons(caught.value)
    assert "--organs#NAME \"{'structures': [...], 'classes': [...]}\"" in reasons(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["structures", "label_sets"])
def test_an_overlay_of_version_0_6_is_refused(tmp_path: Path, reasons: Reasons, name: str) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(f"{name}: [background, nodule]\n")
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path / "out", TRAIN, str(overlay))
    assert f"{name} must be told by organs, got a config file with {name} of its own" in reasons(caught.value)


def test_an_organ_that_weights_do_not_know_is_refused_outside_training(tmp_path: Path, reasons: Reasons) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, INFERENCE, **{"organs#thyroid": {"structures": ["nodule"]}})
    assert "organs must be those of the weights, got --organs#thyroid beside them" in reasons(caught.value)


def test_an_option_of_another_workflow_is_refused(tmp_path: Path, reasons: Reasons) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, TRAIN, max_clicks=3)
    assert "--max_clicks must be an id of the config, got 'max_clicks', which no config has" in reasons(caught.value)


@pytest.mark.parametrize("runner", [run, run_workflow])
def test_an_args_file_is_looked_at_too(tmp_path: Path, reasons: Reasons, runner: Callable[..., None]) -> None:
    args = {"config_file": str(ROOT / "configs" / INFERENCE), "logging_file": False, "positoin": "breast"}
    (tmp_path / "args.json").write_text(json.dumps({**args, "bundle_root": str(ROOT)}))
    with pytest.raises(RuntimeError) as caught:
        runner(args_file=str(tmp_path / "args.json"))
    assert "did you mean --position?" in reasons(caught.value)


@pytest.mark.parametrize("overlays", [[], ["multi_gpu_train.yaml"]], ids=["one process", "torchrun"])
def test_the_command_line_from_another_folder(tmp_path: Path, overlays: list[str]) -> None:
    files = str([str(ROOT / "configs" / name) for name in (TRAIN, *overlays)])
    launcher = ["torch.distributed.run", "--nproc_per_node=1", "--standalone", "-m"] if overlays else []
    command = [sys.executable, "-m", *launcher, "monai.bundle", "run", "training", "--config_file", files]
    command += ["--bundle_root", str(ROOT), "--output_dir", "out", "--max-epoch", "1"]  # Fire takes the hyphen
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: --max_epoch must be an id of the config" in done.stderr
    assert "did you mean --max_epochs?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def first_step(folder: Path, *files: str, **options: Any) -> None:
    """As ``start``, with a run that only looks at the options."""
    (folder / "stop.json").write_text(json.dumps({"run": [{"_target_": "bundle.options.check_options"}]}))
    start(folder, *files, str(folder / "stop.json"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"organs#thyroid": {"structures": ["lesion"]}},
        {"organs#spleen": {"classes": ["normal", "ill"]}},  # a table's keys are data
        {"train#trainer#amp": True},  # an argument of the component that the config does not set
        {"train#named_handlers#tensorboard#_disabled_": True},
        {"lr_scheduler": {"_target_": "StepLR", "optimizer": "@optimizer", "step_size": 3}, "lr_scheduler#gamma": 0.5},
        {"tracking_uri": "x", "experiment_name": "y", "run_name": "z"},  # MONAI Label sets them
        {"workflow_type": "train", "init_id": "initialize"},
        {"train#dataset#data": [{"image": "a.png", "label": "b.png"}], "validate#dataset#data": []},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_config_takes_passes(tmp_path: Path, options: dict[str, Any]) -> None:
    first_step(tmp_path, TRAIN, **options)


def test_ids_of_an_overlay_are_known(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"my_power": 0.5, "lr_scheduler#power": "@my_power"}))
    first_step(tmp_path, TRAIN, str(tmp_path / "mine.json"), my_power=0.7)


@pytest.mark.parametrize("value", [2024, 1e5, True, ["a", "b"], ("a", "b")])
@pytest.mark.parametrize(("files", "name"), [((TRAIN,), "dataset_dir"), ((INFERENCE,), "output_dir")])
def test_a_path_that_came_in_as_another_thing_is_refused(
    tmp_path: Path, reasons: Reasons, files: tuple[str, ...], name: str, value: Any
) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, *files, **{name: value})
    message = rf"{name} must be text, got {re.escape(repr(value))} .*put ./ before a path .*: --{name} \./2024 for the"
    assert re.search(message, reasons(caught.value))


@pytest.mark.parametrize("words", [["--dataset_dir", "1e5"], ["--dataset_dir=1e5"], ["--dataset-dir", "1e5", "--x"]])
def test_a_path_is_repeated_as_it_was_typed(
    tmp_path: Path, reasons: Reasons, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", *words])
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, TRAIN, dataset_dir=1e5)
    text = reasons(caught.value)
    assert "dataset_dir must be text, got 1e5, read as 100000.0 (float); put ./ before a path" in text
    assert text.rstrip().endswith("--dataset_dir ./1e5.")


@pytest.mark.parametrize(
    ("files", "option", "value"),
    [
        ((TRAIN,), "bundle_root", 2024),
        ((TRAIN,), "cache_dir", 7),
        ((TRAIN,), "start_weights", 1e5),
        ((TRAIN,), "encoder_weights", 5),
        ((TRAIN,), "train#dataset#data#datalist", 2024),
        ((TRAIN, EVALUATE), "split", 1),
        ((TRAIN, EVALUATE), "ckpt_path", 12),
        ((INFERENCE,), "prompts", 2024),
        ((INFERENCE,), "position", 0),
        ((INFERENCE,), "runtime", 3.5),
    ],
)
def test_a_number_for_any_text_is_refused(
    tmp_path: Path, reasons: Reasons, files: tuple[str, ...], option: str, value: Any
) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, *files, **{option: value})
    assert f"{option} must be text, got {value}" in reasons(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("max_epochs", 0, "a whole number from 1"),
        ("max_epochs", -1, "a whole number from 1"),
        ("max_epochs", 2.5, "a whole number from 1"),
        ("max_epochs", "$None", "a whole number from 1"),
        ("train#trainer#max_epochs", 0, "a whole number from 1"),
        ("batch_size", 0, "a whole number from 1"),
        ("batch_size", True, "a whole number from 1"),
        ("val_interval", "two", "a whole number from 1"),
        ("samples_per_epoch", -5, "a whole number from 1, or '$None'"),
        ("fold", -1, "a whole number from 0, or '$None'"),
        ("empty_crops", 1.5, "a number from 0 to 1"),
        ("learning_rate", 0, "a number above 0"),
        ("learning_rate", float("nan"), "a number above 0"),
        ("max_norm", float("inf"), "a number above 0"),
        ("weight_decay", -0.1, "a number from 0"),
        ("drop_prompts", 1.5, "a number from 0 to 1"),
        ("dropout", 1, "a number from 0 to 0.9999"),
        ("ema_decay", 1.0, "a number from 0 to 0.9999"),
        ("image_size", 250, "a multiple of 32 from 32 to 2048"),
        ("small_side", 0, "a multiple of 32 from 32 to 2048"),
        ("seed", "abc", "a whole number from 0"),
        ("seed", -1, "a whole number from 0"),
        ("seed", 1.5, "a whole number from 0"),
        ("num_threads", "two", "a whole number from 1"),
        ("num_threads", 0, "a whole number from 1"),
    ],
)
def test_a_number_out_of_range_leaves_an_earlier_run_where_it_is(
    tmp_path: Path, reasons: Reasons, option: str, value: Any, wanted: str
) -> None:
    (tmp_path / "out").mkdir()
    for name in ("last.pt", "metrics.csv"):
        (tmp_path / "out" / name).write_text("of a finished run")
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, TRAIN, **{option: value})
    assert f"--{option} must be {wanted}, got {value!r}; correct it." in reasons(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["last.pt", "metrics.csv", "out"]


@pytest.mark.parametrize("files", [(TRAIN,), (TRAIN, EVALUATE), ("pretrain.yaml",), (INFERENCE,)])
def test_a_device_that_there_is_not_is_refused(tmp_path: Path, reasons: Reasons, files: tuple[str, ...]) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, *files, device="cpu0")
    assert "--device must be a device such as cpu, cuda or cuda:1, got 'cpu0'; correct it" in reasons(caught.value)


def test_a_task_that_there_is_not_is_refused(tmp_path: Path, reasons: Reasons) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, INFERENCE, task="segment")
    tasks = "['segmentation', 'classification', 'restore', 'unknown']"
    assert f"--task must be one of {tasks}, got 'segment'; correct it" in reasons(caught.value)


@pytest.mark.parametrize("files", [(TRAIN,), (INFERENCE,)])
def test_a_folder_whose_name_would_be_evaluated_is_refused_with_the_way_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reasons: Reasons, files: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$x").mkdir()
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, *files, dataset_dir="$x")
    assert "got '$x'; write --dataset_dir './$x'." in reasons(caught.value)
    first_step(tmp_path, *files, dataset_dir="./$x")
    parser = ConfigParser({"dataset_dir": "./$x", "datalist": "$@dataset_dir + '/datalist.json'"})
    assert parser.get_parsed_content("datalist") == "./$x/datalist.json"


@pytest.mark.parametrize("files", [(TRAIN, EVALUATE), (TRAIN, CLICKS), (INFERENCE,)])
def test_one_entry_of_the_gate_can_be_given(tmp_path: Path, files: tuple[str, ...]) -> None:
    parser = ConfigParser(ConfigParser.load_config_files([str(ROOT / "configs" / name) for name in files]))
    parser["held"] = {"gate": {"lesion": 0.3, "head": 0.2}}
    assert parser.get_parsed_content("gate") == {"lesion": 0.3, "head": 0.2}
    parser["gate#lesion"] = 0.9
    parser.parse(reset=True)
    assert parser.get_parsed_content("gate") == {"lesion": 0.9, "head": 0.2}
    first_step(tmp_path, *files, **{"gate#lesion": 0.9})


def test_numbers_in_range_pass(tmp_path: Path) -> None:
    first_step(tmp_path, TRAIN, max_epochs=1, samples_per_epoch="$None", learning_rate="$1e-3", fold="$None")


def test_none_that_monai_leaves_out_is_refused(tmp_path: Path, reasons: Reasons) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, TRAIN, task_weights=None)
    assert "--task_weights must have a value, got None, which MONAI leaves out, so that {'segm" in reasons(caught.value)
    assert "write --task_weights '$None' for none." in reasons(caught.value)
    first_step(tmp_path, TRAIN, task_weights="$None", start_weights=None)


def test_a_number_in_an_overlay_is_refused_too(tmp_path: Path, reasons: Reasons) -> None:
    (tmp_path / "mine.yaml").write_text("output_dir: 2024\n")
    with pytest.raises(RuntimeError) as caught:
        run(config_file=[str(ROOT / "configs" / INFERENCE), str(tmp_path / "mine.yaml")], logging_file=False)
    assert "output_dir must be text, got 2024" in reasons(caught.value)


def test_every_text_of_the_shipped_configs_is_known() -> None:
    """Plain text at the top of a config, and what is made of paths."""
    for files in ((TRAIN,), (TRAIN, EVALUATE), (TRAIN, CLICKS), (INFERENCE,)):
        parser = ConfigParser(ConfigParser.load_config_files([str(ROOT / "configs" / name) for name in files]))
        for name, value in parser.config.items():
            if isinstance(value, str) and not value.startswith(("@", "$@held")):  # told by the weights
                text = "bundle_root" in value or "ckpt_dir" in value if value.startswith("$") else name != "bundle_root"
                assert (name in PATHS | NAMES) == (text or name == "bundle_root"), name
