# SPDX-License-Identifier: Apache-2.0
"""What the server refuses, over HTTP: paths, expressions, foreign pages; and what honest clients send, which passes."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.monai_label.conftest import Server

pytestmark = pytest.mark.label


JSON = {"Content_Type": "application/json"}
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
Reply = tuple[int, str, dict[str, str]]


def send(server: Server, method: str, target: str, body: bytes = b"", **headers: str) -> Reply:
    """A request as it stands: no part of its address is made tidy. Status, text and headers of the answer."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        connection.putrequest(method, target, skip_host="Host" in named)
        for key, value in {"Content-Length": str(len(body)), **named}.items():
            connection.putheader(key, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, answer.read().decode("utf-8", "replace"), found
    finally:
        connection.close()


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


def form(name: str, filename: str, content: bytes, **fields: str) -> tuple[bytes, str]:
    """A multipart form with one file, and its content type."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
    return b"".join([*parts, head, content, b"\r\n--x--\r\n"]), "multipart/form-data; boundary=x"


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((70, 104), 1, np.uint8)).save(file, "PNG")
    return file.getvalue()


def tree(server: Server) -> dict[str, bytes]:
    """All files that an attack might reach: beside the studies, in them, and the bundle's weights."""
    folders = [server.studies, server.studies.parent / "outside", server.bundle / "models"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if path.name != ".lock"}


def left_over(server: Server) -> list[Path]:
    """Temporary files of requests; those of an answered one may take a moment to go."""
    end = time.monotonic() + 5
    while (files := list(server.studies.parent.glob("temporary/*/requests/*"))) and time.monotonic() < end:
        time.sleep(0.1)
    return files


@pytest.fixture
def outside(server: Server) -> Iterator[Path]:
    """An image beside the studies. Nothing that a test sends may change it, nor the studies, nor the weights."""
    file = server.studies.parent / "outside/secret.png"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(png())
    before = tree(server)
    yield file
    assert tree(server) == before
    assert not list(server.studies.parent.rglob("EXECUTED"))
    assert server.process.poll() is None


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


# -- senders --------------------------------------------------------------------------------------------------------
FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://example.org"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://127.0.0.1.example.org"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Host": "example.org"},
    {"Host": "127.0.0.1.example.org:8000"},
    {"Host": ""},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: str(headers))
def test_foreign_page_is_not_answered(server: Server, outside: Path, headers: dict[str, str]) -> None:
    preflight = {"Access_Control_Request_Method": "PUT", "Access_Control_Request_Headers": "content-type"}
    sent = [
        send(server, "GET", "/info/", **headers),
        send(server, "GET", "/datastore/image?image=gray", **headers),
        send(server, "DELETE", "/datastore/image?id=gray", **headers),
        send(server, "POST", f"/train/{server.model}", b"{}", Content_Type="text/plain", **headers),
        send(server, "OPTIONS", "/datastore/image", **preflight, **headers),
    ]
    assert [status for status, _, _ in sent] == [403] * len(sent)
    assert not [key for _, _, found in sent for key in found if key.startswith("access-control")]


def test_own_page_is_answered_and_lets_no_other_read(server: Server) -> None:
    status, _, headers = send(server, "GET", "/info/", Origin=server.url, Sec_Fetch_Site="same-origin")
    assert (status, headers["cross-origin-resource-policy"]) == (200, "same-origin")
    assert not [key for key in headers if key.startswith("access-control")]
    assert send(server, "GET", "/", Sec_Fetch_Site="none")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/model/ultrasound_uperconvnext", 405),
        ("DELETE", "/model/ultrasound_uperconvnext", 405),
        ("POST", "/reload", 404),
        ("GET", "/proxy/dicom/etc/hostname", 404),
        ("POST", "/proxy/dicom/wado/x", 404),
        ("GET", "/ohif/..", 404),
        ("GET", "/ohif/../../../app.py", 404),
        ("GET", "/static/../app.py", 404),
        ("GET", "/logs/gpu", 404),
        ("GET", "/logs/../../../etc/hostname", 404),
        ("POST", "/infer/wsi/ultrasound_uperconvnext", 404),
        ("POST", "/infer/wsi_v2/ultrasound_uperconvnext", 404),
        ("GET", "//etc/hostname", 404),
        ("PATCH", "/datastore/", 405),
    ],
)
def test_what_no_client_needs_is_not_served(server: Server, outside: Path, method: str, path: str, status: int) -> None:
    body, kind = form("file", "model.pt", b"x")
    assert send(server, method, path, body, Content_Type=kind)[0] == status


def test_too_large_request_is_refused(server: Server, outside: Path) -> None:
    target = f"/infer/{server.model}?image=gray"
    status, text, _ = send(server, "POST", target, b"", Content_Length=str(10**10), Content_Type="text/plain")
    assert (status, "100 MB" in text) == (413, True)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as raw:
        raw.sendall(f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        block = b"100000\r\n" + bytes(2**20) + b"\r\n"
        try:
            for _ in range(102):
                raw.sendall(block)
        except OSError:  # it does not read on
            pass
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


# -- honest clients -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["Müller 50% (1) & Co", "a.b.c", "日本 #1+2", "100%25", "-x", "it's; {x}", "9:30"])
def test_image_with_an_odd_name_is_added_asked_labeled_and_removed(server: Server, name: str) -> None:
    query = {"params": {"image": name}}
    server.call("PUT", "datastore/image", files={"file": ("x.PNG", png())}, **query)
    try:
        assert server.infer(name).mask.shape == (70, 104)
        label = {"label": (f"/tmp/slicer/{name}.nrrd", (server.studies / "nearly.nrrd").read_bytes())}
        server.call("PUT", "datastore/label", files=label, params={"image": name, "tag": "version-1.0"})
        found = server.call("GET", "datastore/label", params={"label": name, "tag": "version-1.0"})
        assert found.content == (server.studies / "nearly.nrrd").read_bytes()
    finally:
        server.call("DELETE", "datastore/image", params={"id": name})
    assert not list(server.studies.rglob(f"*{name}*"))


def test_paths_as_3d_slicer_sends_them_count_by_their_last_part(server: Server) -> None:
    for path in ("/home/a/image.png", "C:\\Users\\A.B\\image.png"):
        body, kind = form("file", path, png(), params='{"client_id": null, "position": "unknown"}')
        assert send(server, "POST", f"/infer/{server.model}?image=", body, Content_Type=kind)[0] == 200


def test_session_keeps_an_image_until_it_is_removed(server: Server) -> None:
    made = server.call("PUT", "session/", files={"files": ("x y.png", (server.studies / "gray.png").read_bytes())})
    session = made.json()["session_id"]
    answer = server.call("POST", f"infer/{server.model}", params={"session_id": session, "output": "json"})
    assert "areas" in answer.json()
    (path,) = server.studies.parent.glob(f"temporary/ultrasound_label_*/sessions/{session}/x y.png")
    server.call("DELETE", f"session/{session}")
    assert not path.exists()


def test_failing_request_says_why_and_leaves_no_file(server: Server) -> None:
    for name, content in (("broken.png", b"no picture"), ("x.nii.gz", b"")):
        body, kind = form("file", name, content)
        status, text, _ = send(server, "POST", f"/infer/{server.model}", body, Content_Type=kind)
        assert status == 500
        assert json.loads(text)["detail"] not in ("", "Internal Server Error")
    assert server.infer(file=server.studies / "gray.png").mask.shape == (70, 104)
    assert not left_over(server)


# -- start and end --------------------------------------------------------------------------------------------------
def test_ctrl_c_ends_a_training_too_and_leaves_nothing(
    label_python: str, project: Path, tmp_path: Path, launch: Callable[..., Any]
) -> None:
    (tmp_path / "studies").mkdir()
    Image.fromarray(np.zeros((70, 104), np.uint8)).save(tmp_path / "studies/gray.png")
    with launch(label_python, project, tmp_path, "--app", "app") as server:
        (private,) = (tmp_path / "temporary").iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "app").stat().st_mode & 0o777 == 0o700
        listening = {c.laddr.ip for c in psutil.Process(server.process.pid).net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        server.start("scoring", simulation_size=3)
        end = time.monotonic() + 60
        while not (children := psutil.Process(server.process.pid).children(recursive=True)):
            assert time.monotonic() < end
            time.sleep(0.1)
        os.kill(server.process.pid, signal.SIGINT)
        assert server.process.wait(30) == 0
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        assert not list((tmp_path / "temporary").iterdir())
        assert {path.name for path in (tmp_path / "app/model").iterdir()} == {server.model, server.click_model}


@pytest.mark.parametrize("state", ["read only", "list of another version"])
def test_start_that_fails_ends_with_a_line_that_says_what_to_do(
    label_python: str, project: Path, tmp_path: Path, state: str
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    words = [label_python, str(project / "scripts/label_server.py"), "--studies", str(studies), "--port", "0"]
    if state == "read only":
        message = f"error: {studies} must be a writable folder, got: "
        studies.chmod(0o555)
        if os.access(studies, os.W_OK):  # as root, who needs no permission unless it is taken away
            words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    else:
        message = "error: MONAI Label did not start; the reason stands above, in its log."
        listed = {"name": "x", "description": "", "objects": {"a": {"image": {"ext": ".png", "info": 5}, "labels": {}}}}
        (studies / "datastore_v2.json").write_text(json.dumps(listed))
    environment = os.environ | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert not list(tmp_path.glob("ultrasound_label_*"))
