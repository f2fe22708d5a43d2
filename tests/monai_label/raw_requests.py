# SPDX-License-Identifier: Apache-2.0
"""Requests as they stand, with no part of their address made tidy, and what they may leave behind."""

from __future__ import annotations

import hashlib
import http.client
import io
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tests.monai_label.client import Server

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


def form(name: str, filename: str, content: bytes, **fields: str) -> tuple[bytes, str]:
    """A multipart form with one file, and its content type."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
    return b"".join([*parts, head, content, b"\r\n--x--\r\n"]), "multipart/form-data; boundary=x"


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((70, 104), 1, np.uint8)).save(file, "PNG")
    return file.getvalue()


def tree(server: Server) -> dict[str, str]:
    """All files that an attack might reach, with hashes: beside the studies, in them, and the bundle's weights."""
    folders = [server.studies, server.studies.parent / "outside", server.bundle / "models"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.name != ".lock"}


def settled(server: Server) -> dict[str, str]:
    """``tree``, once what an earlier test did is written down."""
    before = tree(server)
    while True:
        time.sleep(0.2)
        if (now := tree(server)) == before:
            return now
        before = now


def changed(server: Server, before: dict[str, str]) -> list[str]:
    """Files that are no longer as before. The server writes down what it sees in its folder some moments later."""
    end = time.monotonic() + 10
    while (now := tree(server)) != before and time.monotonic() < end:
        time.sleep(0.1)
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def left_over(server: Server) -> list[Path]:
    """Temporary files of requests; those of an answered one may take a moment to go."""
    end = time.monotonic() + 5
    while (files := list(server.studies.parent.glob("temporary/*/requests/*"))) and time.monotonic() < end:
        time.sleep(0.1)
    return files
