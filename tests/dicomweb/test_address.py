# SPDX-License-Identifier: Apache-2.0
import pytest

from bundle.dicomweb import retrieve
from bundle.dicomweb.address import Address, credentials, is_address, is_uid, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://pacs.example/dicom-web", Address("https://pacs.example/dicom-web", "pacs.example")),
        ("https://pacs.example:8443/a/b/", Address("https://pacs.example:8443/a/b", "pacs.example:8443")),
        ("http://127.0.0.1:8042/dicom-web", Address("http://127.0.0.1:8042/dicom-web", "127.0.0.1:8042")),
        ("dicomweb+http://pacs/rs/studies/1.2", Address("http://pacs/rs", "pacs", "1.2")),
        ("DICOMWEB+HTTPS://pacs/rs/studies/1.2/series/3.4/", Address("https://pacs/rs", "pacs", "1.2", "3.4")),
        ("https://pacs/studies/1/series/2/instances/3", Address("https://pacs", "pacs", "1", "2", "3")),
        ("https://pacs", Address("https://pacs", "pacs")),
        ("https://pacs/rs/studies/1.2/series", Address("https://pacs/rs", "pacs", "1.2")),
        ("https://pacs/rs/studies/", Address("https://pacs/rs", "pacs")),
    ],
)
def test_an_address_names_a_server_and_what_is_wanted(text: str, address: Address) -> None:
    assert is_address(text)
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://pacs.example/dicom-web", "expected https, got http, which is not encrypted; write dicomweb\\+http://"),
        ("https:///dicom-web", "must be an address such as https://HOST/dicom-web/studies/UID, got"),
        ("https://pacs:99999/rs", "must be an address such as"),
        ("https://pacs/rs?limit=1", "must be an address such as"),
        ("https://pacs/rs/studies/../../etc", "expected /studies/UID/series/UID/instances/UID or a part of it"),
        ("https://pacs/rs/studies/1.2/series/x", "UIDs being of digits and points, got others"),
        ("https://pacs/rs/studies/1.2/instances/1.3", "expected /studies/UID"),
        ("https://pacs/rs/studies/1.2/instances", "expected /studies/UID"),
        ("https://pacs/rs/studies/1/series/2/instances/3/frames/4", "expected /studies/UID"),
    ],
)
def test_another_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_address(text)


@pytest.mark.parametrize("text", ["images", "/data/https", "C:/images", "ftp://pacs/rs", "file:///etc", "https:", ""])
def test_folders_are_no_addresses(text: str) -> None:
    assert not is_address(text)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(
        ValueError, match="without a user and a password, got one with; set DICOMWEB_USER and"
    ) as caught:
        parse_address("https://reader:secret-4711@pacs/rs")
    assert "4711" not in str(caught.value)
    assert "reader" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "valid"),
    [("1.2.840", True), ("1.02.3", True), ("1" * 64, True), ("1" * 65, False), ("1..2", False), ("1.2.", False),
     ("../x", False), ("1.2\n", False), ("", False), (12, False), (None, False)],
)  # fmt: skip
def test_a_uid_has_digits_and_points(text: object, valid: bool) -> None:
    assert is_uid(text) is valid


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"USER": "reader", "PASSWORD": "x"}, ("reader", "x")),
        ({"TOKEN": "abc.def"}, "abc.def"),
    ],
)
def test_credentials_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: object
) -> None:
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"DICOMWEB_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"DICOMWEB_{name}", value)
    assert credentials() == found


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"USER": "reader"}, "must both be set in the environment, got one of them"),
        ({"USER": "reader", "PASSWORD": "secret", "TOKEN": "secret"}, "got all; unset one"),
        ({"TOKEN": "secret\nX: y"}, "DICOMWEB_TOKEN must be one word of plain characters, got others"),
    ],
)
def test_credentials_that_cannot_be_sent_are_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"DICOMWEB_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"DICOMWEB_{name}", value)
    with pytest.raises(ValueError, match=message) as caught:
        credentials()
    assert "secret" not in str(caught.value)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="must be a folder where several processes run"):
        retrieve("http://127.0.0.1:9/dicom-web")
