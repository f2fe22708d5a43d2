# SPDX-License-Identifier: Apache-2.0
"""Settings that MONAI Label takes and fails on, which the server refuses with their key."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from bundle.label_server.checks import RESULT_TYPES
from tests.monai_label.client import Server
from tests.monai_label.raw_requests import FORM, JSON, form, png, send

pytestmark = pytest.mark.label


def test_settings_that_would_only_fail_inside_are_refused_with_their_key(server: Server) -> None:
    infer, picture = f"/infer/{server.model}?image=gray", form("file", "x.png", png())
    for path, settings, message in (
        (infer, {"result_dtype": "int8"}, "result_dtype must be one of uint8, uint16 for a result as .png"),
        (infer, {"result_dtype": "float64"}, "result_dtype must be one of uint8, uint16 for a result as .png"),
        (infer, {"result_compress": "maybe"}, "result_compress must be true or false"),
        (infer, {"device": "nonsense"}, "device must be one of cpu, cuda"),
        (infer, {"skip_writer": True}, "skip_writer must not be a setting"),
        (infer, {"model": "x"}, f"model must be one of {server.model}"),
        (f"/infer/{server.model}?image=", {}, "image must name an image, or file must hold one, got neither"),
        (f"/infer/{server.model}", {}, "image must name an image, or file must hold one, got neither"),
        (infer, {"mask": "A" * 2**21}, "A field such as params may hold 1 MB"),
    ):
        body, kind = form("other", "x.png", png(), params=json.dumps(settings))
        status, text, _ = send(server, "POST", path, body, Content_Type=kind)
        assert (status, message in text) == (400, True), f"{settings}: {status} {text}"
    assert (
        send(server, "POST", f"/infer/{server.model}?image=&output=json", picture[0], Content_Type=picture[1])[0] == 200
    )
    for path, settings, message in (
        ("/activelearning/random", {"strategy": "x"}, "strategy must be one of random, first, got 'x'"),
        (f"/scoring/{server.model}", {"method": "x"}, f"method must be one of {server.model}, got 'x'"),
        (f"/batch/infer/{server.model}", {"result_dtype": "int8"}, "result_dtype must be one of"),
    ):
        status, text, _ = send(server, "POST", path, json.dumps(settings).encode(), **JSON)
        assert (status, message in text) == (400, True), f"{path}: {status} {text}"


def test_settings_deep_in_each_other_are_refused(server: Server) -> None:
    body = b'{"a": ' + b"[" * 700 + b"]" * 700 + b"}"
    status, text, _ = send(server, "POST", f"/train/{server.model}", body, **JSON)
    assert (status, "must hold at most 20 lists and objects in each other" in text) == (422, True)


def test_pixels_of_every_type_that_a_result_may_have_are_written(server: Server) -> None:
    for suffix, types in RESULT_TYPES.items():
        for dtype in types:
            params = json.dumps({"result_extension": suffix, "result_dtype": dtype})
            body = f"params={quote(params)}".encode()
            status, text, _ = send(server, "POST", f"/infer/{server.model}?image=gray&output=image", body, **FORM)
            assert status == 200, f"{suffix} {dtype}: {text}"


@pytest.mark.parametrize("path", ["/info/", "/", "/datastore/", "/model/ultrasound_uperconvnext"])
def test_the_door_names_the_methods_that_are_served(server: Server, path: str) -> None:
    status, text, _ = send(server, "POST", path, b"")
    assert (status, "HEAD" in text) == (405, False)
    assert send(server, "GET", path)[0] == 200
