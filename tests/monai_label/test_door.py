# SPDX-License-Identifier: Apache-2.0
"""Paths and expressions that the server refuses, over HTTP."""

from __future__ import annotations

import http.client
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.monai_label.client import Server
from tests.monai_label.raw_requests import FORM, JSON, Reply, form, left_over, png, send

pytestmark = pytest.mark.label


def send_kinds(server: Server, path: str, body: bytes, kinds: list[str]) -> Reply:
    """A POST with several headers that say of what kind its body is."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
    try:
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(len(body)))
        for kind in kinds:
            connection.putheader("Content-Type", kind)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace"), {}
    finally:
        connection.close()


# -- names that are paths -------------------------------------------------------------------------------------------
def names(outside: Path) -> list[str]:
    paths = ["..", "../outside/secret", str(outside), "labels/final/gray", "/etc/hostname", "../../../../etc/hostname"]
    others = ["..\\outside\\secret", "C:\\secret", "C:secret", "gray\x00", "gray\n", ".", " "]
    return [*paths, *others, *(quote(path, safe="") for path in paths[1:]), quote(quote(paths[1], safe=""), safe="")]


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/datastore/image", "image"),
        ("HEAD", "/datastore/image", "image"),
        ("GET", "/datastore/image/info", "image"),
        ("PUT", "/datastore/image/info", "image"),
        ("PUT", "/datastore/", "image"),
        ("PUT", "/datastore/image", "image"),
        ("DELETE", "/datastore/", "id"),
        ("DELETE", "/datastore/image", "id"),
        ("GET", "/datastore/label?tag=final", "label"),
        ("HEAD", "/datastore/label?tag=final", "image"),
        ("PUT", "/datastore/label", "image"),
        ("DELETE", "/datastore/label?tag=final", "id"),
        ("GET", "/datastore/label/info?tag=final", "label"),
        ("PUT", "/datastore/label/info?tag=final", "label"),
        ("PUT", "/datastore/updatelabelinfo?tag=final", "label"),
        ("GET", "/datastore/label?label=gray", "tag"),
        ("PUT", "/datastore/label?image=gray", "tag"),
        ("DELETE", "/datastore/label?id=gray", "tag"),
        ("POST", "/infer/ultrasound_uperconvnext", "image"),
        ("POST", "/infer/ultrasound_uperconvnext", "session_id"),
        ("POST", "/infer/ultrasound_uperconvnext?image=gray", "image"),  # the second counts
    ],
)
def test_name_that_is_a_path_is_refused(server: Server, outside: Path, method: str, path: str, key: str) -> None:
    field = "label" if "label" in path else "file"
    for name in names(outside):
        target = f"{path}{'&' if '?' in path else '?'}{key}={quote(name, safe='')}"
        body, kind = form(field, "x.png", png()) if method in ("PUT", "POST") else (b"", "")
        status, text, _ = send(server, method, target, body, Content_Type=kind)
        assert 400 <= status < 500, f"{method} {target}: {status} {text}"
    assert not left_over(server)


@pytest.mark.parametrize(
    "path",
    ["/infer/{}", "/train/{}", "/scoring/{}", "/batch/infer/{}", "/activelearning/{}", "/model/{}", "/model/info/{}"],
)
def test_path_with_an_unknown_name_is_refused(server: Server, outside: Path, path: str) -> None:
    method = "GET" if path.startswith("/model") else "POST"
    for name in [*names(outside), "unknown", "..%2f..%2fmodel", "%252e%252e"]:
        target = path.format(name if "%" in name else quote(name, safe=""))
        status, text, _ = send(server, method, target, b"{}", **JSON)
        assert status in (404, 405), f"{method} {target}: {status} {text}"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_session_must_be_an_id(server: Server, outside: Path, method: str) -> None:
    for name in ("..", "%2e%2e", "..%2f..", "..%5c..", str(outside), "x"):
        assert send(server, method, f"/session/{name}?image=true")[0] in (404, 405)


@pytest.mark.parametrize(
    ("target", "field", "filename"),
    [
        ("/datastore/image", "file", "../outside/secret.png"),
        ("/datastore/image", "file", "..\\secret.png"),
        ("/datastore/image", "file", "folder/new.png"),
        ("/datastore/image", "file", "%2e%2e%2fsecret.png"),
        ("/datastore/image?image=datastore_v2", "file", "x.json"),
        ("/datastore/image?image=.lock", "file", "x"),
        ("/datastore/image?image=page", "file", "x.html"),
        ("/datastore/image?image=x", "file", ".png"),
        ("/datastore/image?image=x", "file", "x.pt"),
        ("/datastore/label?image=gray", "label", "../../secret.png"),
        ("/datastore/label?image=gray", "label", "x.py"),
        ("/datastore/label?image=gray", "label", "x.png\x00.py"),
        ("/session/", "files", "../secret.png"),
        ("/session/", "files", ".."),
        ("/infer/ultrasound_uperconvnext", "file", "../../secret.png"),
    ],
)
def test_file_name_that_is_a_path_or_no_image_is_refused(
    server: Server, outside: Path, target: str, field: str, filename: str
) -> None:
    method = "POST" if "infer" in target else "PUT"
    body, kind = form(field, filename, png())
    status, text, _ = send(server, method, target, body, Content_Type=kind)
    assert 400 <= status < 500, text
    assert not left_over(server)


def test_archive_is_not_unpacked(server: Server, outside: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("../../../../outside/EXECUTED")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    body, kind = form("files", "images.tar", archive.getvalue())
    for value in ("true", "1", "yes", "on", "TRUE"):
        status, text, _ = send(server, "PUT", f"/session/?uncompress={value}", body, Content_Type=kind)
        assert (status, "uncompress" in text) == (400, True)


def test_links_that_lead_out_are_not_followed(server: Server, outside: Path) -> None:
    links = {server.studies / "way.png": outside, server.studies / "labels/final/gray.png": outside}
    try:
        for link, target in links.items():
            link.symlink_to(target)
        end = time.monotonic() + 20
        while "way" not in server.get("datastore/", output="all")["objects"]:  # the server watches the folder
            assert time.monotonic() < end
            time.sleep(0.2)
        body, kind = form("label", "x.png", png())
        sent = [
            send(server, "GET", "/datastore/image?image=way"),
            send(server, "POST", f"/infer/{server.model}?image=way", b"params={}", **FORM),
            send(server, "DELETE", "/datastore/image?id=way"),
            send(server, "PUT", "/datastore/label?image=gray", body, Content_Type=kind),
            send(server, "DELETE", "/datastore/label?id=gray&tag=final"),
            send(server, "POST", f"/train/{server.model}", b"{}", **JSON),
            send(server, "POST", f"/batch/infer/{server.model}", b"{}", **JSON),
            send(server, "POST", "/activelearning/first", b"{}", **JSON),
            send(server, "GET", "/datastore/dataset"),
        ]  # fmt: skip
        assert [(status, "leads out of the studies" in text) for status, text, _ in sent] == [(403, True)] * len(sent)
        assert send(server, "GET", "/datastore/image?image=color")[0] == 200
    finally:
        for link in links:
            link.unlink()
        end = time.monotonic() + 20
        while (objects := server.get("datastore/", output="all")["objects"]) and (
            "way" in objects or "final" in objects["gray"]["labels"]
        ):
            assert time.monotonic() < end
            time.sleep(0.2)


# -- settings -------------------------------------------------------------------------------------------------------
TASKS = ("train", "batch/infer", "scoring")
EXPRESSION = "$__import__('pathlib').Path('EXECUTED').touch()"
SETTINGS: list[dict[str, Any]] = [
    {"position": EXPRESSION},
    {"device": EXPRESSION},
    {"device": [EXPRESSION]},
    {"max_epochs": EXPRESSION},
    {"position": {"_target_": "os.system", "command": "touch EXECUTED"}},
    {"nested": [{"deep": [EXPRESSION]}]},
    {"position": "%configs/train.yaml"},
    {"position": "@network_def"},
    {"run_id": "network"},
    {"bundle_path": "/tmp"},
    {"tracking": "tracking.json"},
    {"tracking_uri": "file:///tmp/records"},
    {"model_filename": "../../secret.pt"},
    {"model_filename": ["/tmp/secret.pt"]},
    {"label_tag": "../..", "save_label": True},
    {"label_tag": "/tmp", "save_label": True},
    {"image": "/etc/hostname"},
    {"image": ["/etc/hostname"]},
    {"image_path": "/etc/hostname"},
    {"images": ["../outside/secret"]},
    {"result_extension": "/../../EXECUTED"},
    {"result_extension": ".py"},
    {"gpus": "0;touch EXECUTED"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: str(settings)[:40])
def test_setting_that_is_code_or_a_path_is_refused(server: Server, outside: Path, settings: dict[str, Any]) -> None:
    text = json.dumps(settings)
    body, kind = form("file", "x.png", png(), params=text)
    sent = [
        send(server, "POST", f"/infer/{server.model}?image=gray", body, Content_Type=kind),
        send(server, "POST", f"/infer/{server.click_model}?image=gray", f"params={quote(text)}".encode(), **FORM),
        *(
            send(server, "POST", path, text.encode(), **JSON)
            for path in (*(f"/{task}/{server.model}" for task in TASKS), "/activelearning/first")
        ),
        send(server, "POST", "/train/", json.dumps({server.model: settings}).encode(), **JSON),
    ]  # fmt: skip
    assert [status for status, _, _ in sent] == [400] * len(sent)
    assert all(next(iter(settings)) in text or "_target_" in text or "deep" in text for _, text, _ in sent)
    assert not left_over(server)


@pytest.mark.parametrize(
    "kinds",
    [
        ["application/json; x=multipart/form-data"],
        ["application/json;application/x-www-form-urlencoded"],
        ["application/json", "multipart/form-data; boundary=x"],
        ["application/json", "application/x-www-form-urlencoded"],
        ["application/vnd.api+json; multipart/form-data"],
        ["application/json, multipart/form-data"],
    ],
    ids=str,
)
def test_kind_of_a_body_hides_no_code(server: Server, outside: Path, kinds: list[str]) -> None:
    body = json.dumps({"max_epochs": EXPRESSION, "device": EXPRESSION}).encode()
    for path in (*(f"/{task}/{server.model}" for task in TASKS), "/activelearning/first"):
        status, text, _ = send_kinds(server, path, body, kinds)
        assert status in (400, 415), f"{path}: {status} {text}"


def test_body_that_is_json_and_a_form_hides_no_setting(server: Server, outside: Path) -> None:
    settings = quote(json.dumps({"device": EXPRESSION}))
    body = json.dumps({"x": f"&params={settings}&"}).encode()
    kinds = [FORM["Content_Type"], JSON["Content_Type"]]
    assert send_kinds(server, f"/infer/{server.model}?image=gray", body, kinds)[0] == 415


@pytest.mark.parametrize("text", ["no json", "[1]", '"x"', "[" * 100_000], ids=["text", "list", "word", "deep"])
def test_settings_that_are_no_object_are_refused(server: Server, text: str) -> None:
    status, answer, _ = send(
        server, "POST", f"/infer/{server.model}?image=gray", f"params={text}".encode(),
        **FORM,
    )  # fmt: skip
    assert (status, "params must be a JSON object" in answer) == (422, True)
