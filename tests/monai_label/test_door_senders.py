# SPDX-License-Identifier: Apache-2.0
"""Whom and what the server answers, over HTTP: no foreign pages, only what clients need, and honest clients."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.monai_label.client import Server
from tests.monai_label.raw_requests import form, left_over, png, send

pytestmark = pytest.mark.label


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
