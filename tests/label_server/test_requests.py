# SPDX-License-Identifier: Apache-2.0
import pytest

from bundle.label_server.checks import Refused
from bundle.label_server.requests import body_kind


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ([], ""),
        (["application/json"], "application/json"),
        (["Application/JSON; charset=utf-8"], "application/json"),
        (["application/json; x=multipart/form-data"], "application/json"),
        (["application/json;application/x-www-form-urlencoded"], "application/json"),
        (["multipart/form-data; boundary=application/json"], "multipart/form-data"),
        (["application/x-www-form-urlencoded"], "application/x-www-form-urlencoded"),
    ],
)
def test_kind_of_a_body_is_what_stands_before_the_first_semicolon(sent: list[str], kind: str) -> None:
    headers = [(b"host", b"x"), *((b"content-type", value.encode()) for value in sent)]
    assert body_kind(headers) == kind


@pytest.mark.parametrize(
    "sent",
    [
        ["application/json", "multipart/form-data; boundary=x"],
        ["application/x-www-form-urlencoded", "application/json"],
        ["application/json, multipart/form-data"],
        ["text/plain"],
        ["application/vnd.api+json"],
        ['"multipart/form-data"'],
    ],
    ids=str,
)
def test_body_of_two_kinds_or_of_another_kind_is_refused(sent: list[str]) -> None:
    with pytest.raises(Refused, match="Content-Type must be one of application/json, multipart/form-data") as error:
        body_kind([(b"content-type", value.encode()) for value in sent])
    assert error.value.status == 415
