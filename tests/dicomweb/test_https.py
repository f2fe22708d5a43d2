# SPDX-License-Identifier: Apache-2.0
"""Certificates: those of strangers are refused, one's own are named in the environment."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from bundle.dicomweb.address import parse_address
from bundle.dicomweb.retrieval import retrieve
from bundle.dicomweb.server import Server
from tests.dicomweb.conftest import handler
from tests.dicomweb.test_hostile_servers import STUDY, listing


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a server on loopback, and the certificate that it signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl, which makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(listing))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://localhost:{server.server_port}/dicom-web", certificate
    server.shutdown()
    server.server_close()


def test_a_server_of_unknown_certificate_is_not_told_who_asks(
    secure: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMWEB_TOKEN", "abc")
    with pytest.raises(OSError, match="got none: no secure connection to the server \\(SSLError\\)"):
        retrieve(secure[0])


def test_a_certificate_of_ones_own_is_named_in_the_environment(
    secure: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure[1]))
    assert list(Server(parse_address(secure[0])).studies()) == [STUDY]
