# SPDX-License-Identifier: Apache-2.0
"""Where a DICOMweb server is, what is wanted of it, and who asks."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

SCHEMES = {"https": "https", "http": "http", "dicomweb+https": "https", "dicomweb+http": "http"}
LOOPBACK = ("127.0.0.1", "localhost")
USER, PASSWORD, TOKEN = "DICOMWEB_USER", "DICOMWEB_PASSWORD", "DICOMWEB_TOKEN"
"""Environment variables that say who asks."""

_BELOW = ("studies", "series", "instances")
_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*")
_EXAMPLE = "https://HOST/dicom-web/studies/UID"


@dataclass(frozen=True)
class Address:
    """What is wanted of a server; an empty UID asks for all.

    Attributes:
        url: of the service.
        host: name and port.
        study, series, instance: UIDs.
    """

    url: str
    host: str
    study: str = ""
    series: str = ""
    instance: str = ""


def is_address(text: object) -> bool:
    """Whether a text is the address of a server, and no folder."""
    return str(text).partition("://")[0].lower() in SCHEMES and "://" in str(text)


def is_uid(text: object) -> bool:
    """Whether a text is a UID: PS3.5 section 9.1, of which leading zeros, which some makes write, are let pass."""
    return isinstance(text, str) and _UID.fullmatch(text) is not None


def parse_address(text: str) -> Address:
    """What the address of a service, a study, a series or an instance asks for.

    Args:
        text: ``https://HOST/PATH[/studies/UID[/series/UID[/instances/UID]]]``, or with
            ``dicomweb+http`` in front, which is not encrypted; ``http`` on this machine.

    Raises:
        ValueError: when it is something else, or holds a password, which is not repeated.
    """
    parts = urlsplit(text)
    scheme = SCHEMES.get(parts.scheme.lower(), "")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"dataset_dir must be an address without a user and a password, got one with; set {USER} and {PASSWORD}, or"
            f" {TOKEN}, in the environment instead."
        )
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not scheme or not parts.hostname or port == 0 or ":" in parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"dataset_dir must be an address such as {_EXAMPLE}, got {text!r}; correct --dataset_dir.")
    host = parts.hostname if port is None else f"{parts.hostname}:{port}"
    if parts.scheme.lower() == "http" and parts.hostname not in LOOPBACK:
        raise ValueError(
            f"dataset_dir {text}: expected https, got http, which is not encrypted; write dicomweb+http:// if that is"
            " meant."
        )
    base, _, below = f"{parts.path.rstrip('/')}/".partition("/studies/")
    names = below.rstrip("/").split("/") if below else []
    levels, uids = ["studies", *names[1::2]], names[::2]
    if len(uids) > len(_BELOW) or tuple(levels) != _BELOW[: len(levels)] or not all(map(is_uid, uids)):
        raise ValueError(
            f"dataset_dir {text}: expected /studies/UID/series/UID/instances/UID or a part of it, UIDs being of digits"
            " and points, got others; correct it."
        )
    return Address(f"{scheme}://{host}{base.rstrip('/')}", host, *uids)


def credentials() -> tuple[str, str] | str | None:
    """User and password, or a token, of the environment; None where it has none.

    Raises:
        ValueError: when one is missing, or cannot be sent; no value is repeated.
    """
    user, password, token = (os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN))
    if token and (user or password):
        raise ValueError(f"the environment must hold {USER} and {PASSWORD}, or {TOKEN}, got all; unset one.")
    if bool(user) != bool(password):
        raise ValueError(f"{USER} and {PASSWORD} must both be set in the environment, got one of them; set the other.")
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ValueError(f"{TOKEN} must be one word of plain characters, got others in it; set it again.")
    return token or ((user, password) if user else None)
