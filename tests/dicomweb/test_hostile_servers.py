# SPDX-License-Identifier: Apache-2.0
"""Servers that hang, lie, drop or send too much: what they cost is named, and nothing else."""

import contextlib
import gzip
import json
import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from bundle.dicomweb import retrieval
from bundle.dicomweb.address import parse_address
from bundle.dicomweb.retrieval import retrieve
from bundle.dicomweb.server import Server
from bundle.dicomweb.session import BoundedSession
from bundle.live.frames import FrameReader, list_frames
from tests.live.test_sources import write_dicom

Serve = Callable[[Callable[[BaseHTTPRequestHandler], object]], str]
STUDY, SERIES, GOOD, BAD = "1.2", "1.2.3", "1.2.3.4", "1.2.3.5"
PIXELS = np.full((1, 8, 12), 90, np.uint8)


def dicom_file(folder: Path, instance: str) -> bytes:
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": instance}
    return write_dicom(folder / "made.dcm", PIXELS, **uids).read_bytes()


def part(content: bytes, end: bytes = b"\r\n--b--\r\n") -> bytes:
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + end


def send(
    request: BaseHTTPRequestHandler, body: bytes, kind: str = "multipart/related; boundary=b", status: int = 200
) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def send_list(request: BaseHTTPRequestHandler, tag: str, *uids: object) -> None:
    entries = [{tag: {"vr": "UI", "Value": [uid]}} for uid in uids]
    body = json.dumps([] if "offset=0" not in request.path else entries).encode()
    send(request, body, "application/dicom+json")


def listing(request: BaseHTTPRequestHandler, *instances: str) -> bool:
    """Answers a search; whether it was one."""
    path = request.path.partition("?")[0].removeprefix("/dicom-web")
    level = path.strip("/").split("/")[-1]
    tags = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}
    if level not in tags:
        return False
    uids = {"studies": [STUDY], "series": [SERIES], "instances": list(instances)}
    send_list(request, tags[level], *uids[level])
    return True


def hang(request: BaseHTTPRequestHandler) -> None:
    time.sleep(12)


def dribble_head(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(120):
        request.wfile.write(b"a")
        time.sleep(0.1)


def dribble_body(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "multipart/related; boundary=b")
    request.end_headers()
    for _ in range(120):
        request.wfile.write(b"a")
        time.sleep(0.1)


def drop(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "multipart/related; boundary=b")
    request.send_header("Content-Length", "100000")
    request.end_headers()
    request.wfile.write(b"x" * 100)
    request.connection.close()


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "multipart/related; boundary=b")
    request.end_headers()
    with contextlib.suppress(OSError):
        while True:
            request.wfile.write(bytes(1 << 16))


def redirect(place: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", place)
        request.end_headers()

    return answer


LIES: dict[str, tuple[Callable[[BaseHTTPRequestHandler], None], str]] = {
    "html": (lambda r: send(r, b"<html>log in</html>", "text/html"), r"must send multipart/related or .*'text/html'"),
    "no type": (lambda r: (r.send_response(200), r.end_headers()), r"must send multipart/related or .*, sends ''"),
    "error": (lambda r: send(r, b"", status=500), "the server fails with status 500"),
    "not there": (lambda r: send(r, b"", status=404), "the server answers with status 404"),
    "forbidden": (lambda r: send(r, b"", status=401), r"refuses access \(status 401\)"),
    "redirect to a file": (redirect("file:///etc/passwd"), r"redirects \(status 302\), which is not followed"),
    "redirect elsewhere": (redirect("http://127.0.0.1:1/x"), r"redirects \(status 302\), which is not followed"),
    "redirect to itself": (redirect("/dicom-web/again"), r"redirects \(status 302\), which is not followed"),
    "no boundary": (lambda r: send(r, b"--b", "multipart/related"), "must name the boundary of its parts"),
    "cut": (lambda r: send(r, part(bytes(500), end=b"")), "answer is cut after .* its end mark is missing"),
    "no parts": (lambda r: send(r, b"--b--"), "must send one instance, sends 0"),
    "no head": (lambda r: send(r, b"--b\r\nxyz\r\n--b--"), "must send a part with a header"),
    "two parts": (lambda r: send(r, part(b"1", end=b"\r\n") + part(b"2")), "must send one instance, sends 2"),
    "no DICOM": (lambda r: send(r, part(b"<html></html>" + bytes(200))), "must send a DICOM file, sends b'<html>"),
    "dropped": (drop, "the server ended the connection after"),
    "hangs": (hang, "the server hangs: "),
    "dribbles its head": (dribble_head, "the server hangs: 0 bytes in "),
    "dribbles its body": (dribble_body, "the server hangs: "),
    "endless": (endless, "must send 1 MiB at most, sends more"),
}


SLOW = re.compile("hangs|dribbles")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    hangs = getattr(request.node, "callspec", None) and SLOW.search(str(request.node.callspec.params.get("kind")))
    monkeypatch.setattr("bundle.dicomweb.session.PATIENCE", 4.0 if hangs else 60.0)
    monkeypatch.setattr("bundle.dicomweb.session.LARGEST", {"json": 1 << 20, "dicom": 1 << 20})
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"DICOMWEB_{name}", raising=False)


@pytest.mark.parametrize("kind", LIES)
def test_an_instance_that_does_not_come_is_named_and_the_rest_does(tmp_path: Path, serve: Serve, kind: str) -> None:
    lie, message = LIES[kind]
    good = dicom_file(tmp_path, GOOD)

    def answer(request: BaseHTTPRequestHandler) -> None:
        if not listing(request, BAD, GOOD):
            send(request, part(good)) if request.path.endswith(GOOD) else lie(request)

    items = list_frames(serve(answer))
    assert [item["file"] for item in items] == [f"{STUDY}/{SERIES}/{name}.dcm" for name in (GOOD, BAD)]
    assert Path(items[0]["image"]).read_bytes() == good
    assert not Path(items[1]["image"]).exists()
    with pytest.raises(ValueError, match=message) as caught:
        FrameReader()(items[1])
    assert str(caught.value).startswith(f"{items[1]['image']}: ")


@pytest.mark.parametrize("kind", sorted(LIES.keys() - {"no boundary", "cut", "no parts", "no head", "two parts"}))
def test_a_list_that_does_not_come_ends_the_run_with_its_reason(serve: Serve, kind: str) -> None:
    lie, _ = LIES[kind]
    with pytest.raises(OSError, match=r"dataset_dir http.*: expected instances, got none: the server .*\. Correct"):
        list_frames(serve(lie))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[[[", "must list JSON, lists something else"),
        (b"[" * 100_000 + b"]" * 100_000, "must list JSON, lists something else"),
        (b'["x"]', "must list objects, lists others for each study"),
        (b'[{"0020000D": 5}]', "must list UIDs, lists None as study"),
        (b'[{"0020000D": {"Value": ["../../etc"]}}]', r"must list UIDs, lists '\.\./\.\./etc' as study"),
    ],
)
def test_a_list_of_something_else_is_refused(serve: Serve, body: bytes, message: str) -> None:
    url = serve(lambda request: send(request, body, "application/json"))
    with pytest.raises(OSError, match=message):
        list_frames(url)


def test_an_instance_of_another_patient_is_refused(tmp_path: Path, serve: Serve) -> None:
    other = dicom_file(tmp_path, "1.2.3.99")
    url = serve(lambda request: None if listing(request, GOOD) else send(request, part(other)))
    (item,) = list_frames(url)
    assert item["refused"] == "the server sends another instance, 1.2/1.2.3/1.2.3.99"


def test_a_server_that_repeats_its_pages_comes_to_an_end(serve: Serve, tmp_path: Path) -> None:
    tags = {"studies": ("0020000D", STUDY), "series": ("0020000E", SERIES), "instances": ("00080018", GOOD)}
    content = dicom_file(tmp_path, GOOD)

    def answer(request: BaseHTTPRequestHandler) -> None:
        level = request.path.partition("?")[0].split("/")[-1]
        if level in tags:
            tag, uid = tags[level]
            send(request, json.dumps([{tag: {"Value": [uid]}}]).encode(), "application/json")
        else:
            send(request, part(content))

    assert [item["file"] for item in list_frames(serve(answer))] == [f"{STUDY}/{SERIES}/{GOOD}.dcm"]


def test_a_server_that_stopped_is_not_asked_for_all_the_rest(serve: Serve) -> None:
    asked = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        if not listing(request, *(f"1.2.3.{n}" for n in range(50))):
            asked.append(request.path)
            send(request, b"", status=503)

    items = list_frames(serve(answer))
    assert len(asked) == 3
    assert len(items) == 50
    assert sum("not asked for: the server did not answer 3 times in a row" in item["refused"] for item in items) == 47


def test_one_series_that_cannot_be_listed_is_named(serve: Serve, tmp_path: Path) -> None:
    content = dicom_file(tmp_path, GOOD)

    def answer(request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if path.endswith(f"{STUDY}/series"):
            send_list(request, "0020000E", "1.2.9", SERIES)
        elif path.endswith("1.2.9/instances"):
            send(request, b"", status=404)
        elif not listing(request, GOOD):
            send(request, part(content))

    items = list_frames(f"{serve(answer)}/studies/{STUDY}")
    assert [item["file"] for item in items] == [f"{STUDY}/{SERIES}/{GOOD}.dcm", f"{STUDY}/1.2.9"]
    assert items[1]["refused"] == "the server answers with status 404"


def test_a_part_without_multipart_is_taken(serve: Serve, tmp_path: Path) -> None:
    """Some servers send the file itself."""
    content = dicom_file(tmp_path, GOOD)
    url = serve(lambda r: None if listing(r, GOOD) else send(r, content, "application/dicom"))
    (item,) = list_frames(url)
    assert Path(item["image"]).read_bytes() == content


def test_a_full_disk_is_named(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "FREE", 1 << 60)
    (item,) = list_frames(serve(lambda request: listing(request, GOOD)))
    assert item["refused"].endswith("is full; set TMPDIR to a larger one")


def test_too_many_instances_are_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "MOST", 2)
    with pytest.raises(ValueError, match="must name 2 instances at most, got more"):
        list_frames(serve(lambda request: listing(request, "1", "2", "3")))


def test_no_server_is_named() -> None:
    with pytest.raises(OSError, match="the server cannot be reached, or ended the connection"):
        retrieve("http://127.0.0.1:9/dicom-web")


def test_a_token_is_sent_and_a_netrc_file_does_not_replace_it(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("DICOMWEB_TOKEN", "abc.def")
    seen = []
    url = serve(lambda request: (seen.append(request.headers["Authorization"]), listing(request))[0])
    assert list(Server(parse_address(url)).studies()) == [STUDY]
    assert set(seen) == {"Bearer abc.def"}


def test_compressed_answers_count_unpacked(serve: Serve) -> None:
    body = gzip.compress(bytes(8 << 20))

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/dicom")
        request.send_header("Content-Encoding", "gzip")
        request.end_headers()
        request.wfile.write(body)

    with pytest.raises(ValueError, match="must send 1 MiB at most, sends more"):
        BoundedSession().get(serve(answer), headers={"Accept": "application/dicom"})


def test_a_search_that_finds_nothing_may_have_no_content(serve: Serve) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(204)
        request.end_headers()

    assert list(Server(parse_address(serve(answer))).studies()) == []
