# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bundle.label_server.checks import (
    Refused,
    check_file_name,
    check_listed,
    check_name,
    check_result,
    check_settings,
    parsed_settings,
)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "/etc/x",
        "a/b",
        "..\\x",
        "a\\b",
        "C:x",
        "c:\\x",
        "a\x00",
        "a\n",
        "a\x7f",
        "",
        " ",
        "\ud800",
        "%2e%2e%2fx",
        "%252e%252e%252fx",
        "%25252fx",
        "a%5cb",
        "%00",
        "43%3Ax/..",
        "x" * 252,
        "é" * 126,
        None,
        1,
        ["x"],
    ],
)
def test_path_is_no_name(name: Any) -> None:
    with pytest.raises(Refused, match="tag must be a plain name of at most 251 bytes"):
        check_name("tag", name)


@pytest.mark.parametrize(
    "name", ["benign (1)", "a.b.c", "..a", "日本", "50%", "100%25", "9:30", "x" * 251, "-", "é" * 125]
)
def test_odd_name_is_a_name(name: str) -> None:
    check_name("image", name)


@pytest.mark.parametrize("name", ["/tmp/slicer/x.png", "C:\\Users\\A. B\\x.nii.gz", "X.PNG", "a.b.png", "é 1.tif"])
def test_file_of_a_client_counts_by_the_last_part_of_its_path(name: str) -> None:
    check_file_name("file", name, stored=True)


@pytest.mark.parametrize("name", ["x.json", "x", ".png", "..png", ". .png", "x.png.exe", "x.svs", "x.dcm", "x.jpeg"])
def test_only_images_are_stored(name: str) -> None:
    with pytest.raises(
        Refused, match=re.escape(f"file must be one of .nii.gz .nii .nrrd .jpg .png .tif, got {name!r}")
    ):
        check_file_name("file", name, stored=True)
    if name != "":
        check_file_name("file", name, stored=False)


def test_settings_of_clients_pass() -> None:
    of_slicer = {
        "device": "NVIDIA A100",
        "model_filename": ["model.pt"],
        "position": "breast",
        "run_id": "",
        "gpus": "all",
    }
    tracked = {
        "tracking": "None",
        "tracking_uri": "",
        "tracking_experiment_name": "",
        "multi_gpu": True,
        "val_split": 0.2,
        "logging": "WARNING",
        "max_epochs": 50,
    }
    clicked = {"label": "lesion", "lesion": [[1, 2, 0]], "background": [], "slice": None, "mask": "iVBORw0KGgo/+/=="}
    result = {"result_extension": ".nrrd", "result_dtype": "uint8", "restore_label_idx": False, "client_id": None}
    saved = {"images": ["a", "b"], "label_tag": "original", "label_info": [{"name": "lesion", "idx": 1}]}
    for settings in (
        of_slicer,
        tracked,
        clicked,
        result,
        {"result_extension": ".mha"},
        saved,
        {"images": "unlabeled"},
        {"tracking": ["None", "mlflow"]},
    ):
        check_settings(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"a": {"b": [[["$x"]]]}}, "b must not begin with $ or @ or %"),
        ({"device": " $x"}, "device must not begin with"),
        ({"device": {"_target_": "os.system"}}, "'_target_' must not be a setting"),
        ({"image": "gray"}, "image must not be a setting: the server decides it"),
        ({"x": {"image_path": "y"}}, "image_path must not be a setting"),
        ({"run_id": "validate"}, "run_id must be one of run, training, got 'validate'"),
        ({"result_extension": ".sh"}, "result_extension must be one of .png, .tif, .bmp, .nii, .nii.gz"),
        ({"result_extension": ".jpg"}, "result_extension must be one of .png, .tif, .bmp, .nii, .nii.gz"),
        ({"label_tag": ["a/b"]}, "label_tag must be a plain name"),
        ({"model": "../x"}, "model must be a plain name"),
        ({"gpus": "0,"}, "gpus must be all or numbers"),
        ({"tracking": ["x.json"]}, "tracking must be one of none, mlflow"),
        ({"device": 7}, "device must be a text or a list of them, got 7"),
        ({"logging": "banana"}, "logging must be one of debug, info, warning, error, critical, got 'banana'"),
        ({"logging": 5}, "logging must be one of debug, info"),
        ({"result_write_to_file": False}, "result_write_to_file must not be a setting"),
        ({"latencies": 5}, "latencies must not be a setting"),
        ({"force_multi_gpu": True}, "force_multi_gpu must not be a setting"),
        ({"max_epochs": "x"}, "max_epochs must be a whole number from 1 to 100000, got x"),
        ({"max_epochs": 0}, "max_epochs must be a whole number from 1 to 100000, got 0"),
        ({"max_epochs": 1.5}, "max_epochs must be a whole number"),
        ({"max_epochs": True}, "max_epochs must be a whole number"),
        ({"net": {"max_epochs": -1}}, "max_epochs must be a whole number"),
        ({"val_split": 5}, "val_split must be -1, or a number from 0 to below 1, got 5"),
        ({"val_split": "x"}, "val_split must be -1, or a number"),
        ({"skip_writer": True}, "skip_writer must not be a setting"),
        ({"result_compress": "maybe"}, "result_compress must be true or false, got 'maybe'"),
        ({"save_label": "false"}, "save_label must be true or false, got 'false'"),
        ({"val_split": float("nan")}, "val_split must be -1, or a number"),
    ],
)
def test_setting_that_is_code_or_a_path_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        check_settings(settings)


KNOWN = {"models": ["m"], "strategies": ["random"], "scoring": ["m"], "devices": ["cpu", "cuda", "NVIDIA A100"]}


@pytest.mark.parametrize("key", ["device", "model", "strategy", "method"])
def test_name_that_the_server_has_not_is_refused(key: str) -> None:
    check_settings({"device": "NVIDIA A100", "model": "m", "strategy": "random", "method": "m"}, KNOWN)
    check_settings({"device": ["cuda:1"], "model": None, "strategy": ""}, KNOWN)
    for value in ("nonsense", ["nonsense"]):
        with pytest.raises(Refused, match=f"^{key} must be one of .*, got 'nonsense'"):
            check_settings({"m": {key: value}}, KNOWN)


@pytest.mark.parametrize(
    ("suffix", "asked", "holds", "not_"),
    [
        (".png", "", "uint16", "int16"),
        (".jpg", None, "uint8", "float32"),
        (".nii.gz", "", "float64", "int8"),
        ("", "", "uint8", "float64"),
        (".png", "", "uint8", "banana"),
        (".nii.gz", ".PNG", "uint16", "int32"),
        (".png", ".seg.nrrd", "INT32", "int64"),
        (".tif", "", "float32", "float64"),
        (".png", ".bmp", "uint8", "uint16"),
    ],
)
def test_pixels_that_the_result_cannot_hold_are_refused(suffix: str, asked: Any, holds: str, not_: str) -> None:
    for dtype in (holds, None, ""):
        check_result({"result_extension": asked, "result_dtype": dtype}, suffix)
    with pytest.raises(Refused, match=f"^result_dtype must be one of uint8.* for a result as .*, got '{not_}'"):
        check_result({"result_extension": asked, "result_dtype": not_}, suffix)


def test_settings_deep_in_each_other_are_refused() -> None:
    assert parsed_settings("params", json.dumps({"lesion": [[1, 2]] * 10_000}))
    for deep in ("[" * 700 + "]" * 700, '{"a":' * 700 + "1" + "}" * 700):
        with pytest.raises(Refused, match=r"^params must hold at most 20 lists") as error:
            parsed_settings("params", f'{{"a": {deep}}}')
        assert error.value.status == 422


@pytest.mark.parametrize("text", ["{", "[]", "1", b"\xff", "[" * 100_000])
def test_settings_must_be_an_object(text: str | bytes) -> None:
    with pytest.raises(Refused, match="params must be a JSON object") as error:
        parsed_settings("params", text)
    assert error.value.status == 422
    assert parsed_settings("params", "") == {}


LISTED: dict[str, Any] = {"name": "x", "description": "", "images_dir": ".", "labels_dir": "labels"}


def objects(image: str = "gray", *, suffix: Any = ".png", tag: str = "final", label: Any = ".png") -> dict[str, Any]:
    return {"objects": {image: {"image": {"ext": suffix}, "labels": {tag: {"ext": label}}}}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (objects("../x"), r"image must be a plain name .+ got '\.\./x'"),
        (objects(tag="../.."), r"tag must be a plain name .+ got '\.\./\.\.'"),
        (objects(suffix="/../../x.png"), r"suffix must be a plain name .+ got '/\.\./\.\./x\.png'"),
        (objects(label="/../../../x.png"), r"suffix must be a plain name .+ got '/\.\./\.\./\.\./x\.png'"),
        (objects(label=5), "suffix must be a plain name"),
        ({"images_dir": "/etc"}, "images_dir must be '.', got '/etc'"),
        ({"labels_dir": "../outside"}, r"labels_dir must be 'labels', got '\.\./outside'"),
        ({"labels_dir": None}, "labels_dir must be 'labels', got None"),
    ],
)
def test_list_of_studies_must_not_lead_out_of_them(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    file = tmp_path / "datastore_v2.json"
    check_listed(file)
    for good in (LISTED | objects(), LISTED | objects(suffix=".PNG", label=""), LISTED | {"images_dir": ""}):
        file.write_text(json.dumps(good))
        check_listed(file)
    file.write_text(json.dumps(LISTED | changed))
    with pytest.raises(ValueError, match=f"datastore_v2.json: {message}"):
        check_listed(file)


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"\xff\xfe", b"[]", b"", b"[" * 100_000, b'{"objects": {}}'),
        *(json.dumps(LISTED | {"objects": listed}).encode() for listed in (5, {"a": 5}, {"a": {"labels": {}}})),
        json.dumps(LISTED | {"objects": {"a": {"image": {"ext": ""}, "labels": {"final": 5}}}}).encode(),
    ],
    ids=lambda content: str(content[-40:]),
)
def test_damaged_list_of_studies_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "datastore_v2.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"datastore_v2\.json: expected the list .+ move it away") as error:
        check_listed(tmp_path / "datastore_v2.json")
    assert "\n" not in str(error.value)
