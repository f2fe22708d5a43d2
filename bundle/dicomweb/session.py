# SPDX-License-Identifier: Apache-2.0
"""HTTP that a server cannot abuse: bounded in time and size, without redirects, of the expected content."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from bundle.dicomweb.address import credentials

PATIENCE = 60.0
"""Seconds that an answer may take from the request on, besides what its bytes take at ``LEAST_RATE``."""

LEAST_RATE = 100_000
"""Bytes a second below which a server is taken to hang."""

SILENCE = 20.0
"""Seconds without a byte after which a connection is given up."""

LARGEST = {"json": 16 << 20, "dicom": 512 << 20}
"""Bytes of an answer: a list of 1000 entries takes 2 MiB. They are held in memory, three times at most."""

KINDS = {
    "json": ("application/dicom+json", "application/json"),
    "dicom": ("multipart/related", "application/dicom"),
}
_CHUNK = 1 << 16


class UnansweredError(OSError):
    """The server cannot be reached, hangs, or ends the connection."""


class _Token(requests.auth.AuthBase):
    """A header of the request's own: else requests puts what a .netrc file holds in its place."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _Answer:
    """What a thread has of an answer."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.received, self.abandoned = 0, False
        self.response: Any = None
        self.error: BaseException | None = None


class BoundedSession(requests.Session):
    """A session whose answers end: in time, in size, at the server that was asked.

    Each request runs in a thread of its own, which is left alone when the server dribbles its answer.

    Raises:
        UnansweredError: in a request, when there is no answer, or not in time.
        ValueError: in a request, when the answer is no success, another kind of content, or too large.
    """

    def __init__(self) -> None:
        super().__init__()
        who = credentials()
        self.auth = _Token(who) if isinstance(who, str) else who

    def get_redirect_target(self, resp: Any) -> None:
        """None: redirects are not followed, nor read."""

    def send(self, request: Any, **options: Any) -> Any:
        """The answer to a request, all of it in memory."""
        request.headers.pop("Host", None)  # dicomweb-client sets it without the port
        answer, begin = _Answer(), time.monotonic()
        threading.Thread(target=self._receive, args=(answer, request, options), daemon=True).start()
        while (left := begin + PATIENCE + answer.received / LEAST_RATE - time.monotonic()) > 0:
            if answer.done.wait(left):
                break
        else:
            answer.abandoned = True
            seconds = time.monotonic() - begin
            raise UnansweredError(f"the server hangs: {answer.received} bytes in {seconds:.0f} s")
        if answer.error is not None:
            raise answer.error
        return answer.response

    def _receive(self, answer: _Answer, request: Any, options: dict[str, Any]) -> None:
        kind = "json" if "json" in request.headers.get("Accept", "") else "dicom"
        try:
            silence = min(SILENCE, PATIENCE)
            response = super().send(request, **{**options, "stream": True, "timeout": silence})
            with response:
                if response.status_code != 204:  # a search that found nothing
                    _check_head(response, kind)
                    response.raw = io.BytesIO(self._body(answer, response, LARGEST[kind]))
                    _ = response.content
            answer.response = response
        except UnansweredError as error:
            answer.error = error
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
            answer.error = UnansweredError(f"no secure connection to the server ({type(error).__name__})")
        except (requests.RequestException, HTTPError, OSError) as error:
            answer.error = UnansweredError(_lost(error, answer.received))
        except BaseException as error:
            answer.error = error
        finally:
            answer.done.set()

    def _body(self, answer: _Answer, response: Any, most: int) -> bytearray:
        body = bytearray()
        for chunk in response.raw.stream(_CHUNK, decode_content=True):
            body += chunk
            answer.received = len(body)
            if len(body) > most:
                raise ValueError(f"the server must send {most >> 20} MiB at most, sends more")
            if answer.abandoned:
                break
        return body


def _check_head(response: Any, kind: str) -> None:
    status, content = response.status_code, response.headers.get("Content-Type", "")
    if 300 <= status < 400:
        raise ValueError(f"the server redirects (status {status}), which is not followed; give the address it leads to")
    if status >= 500 or status in (408, 429):
        raise UnansweredError(f"the server fails with status {status}")
    if status in (401, 403):
        raise ValueError(f"the server refuses access (status {status}); see the credentials in the environment")
    if not 200 <= status < 300:
        raise ValueError(f"the server answers with status {status}")
    if content.partition(";")[0].strip().lower() not in KINDS[kind]:
        raise ValueError(f"the server must send {' or '.join(KINDS[kind])}, sends {content[:60]!r}")


def _lost(error: BaseException, received: int) -> str:
    if isinstance(error, requests.Timeout):
        return "the server hangs: no answer in time"
    if received or not isinstance(error, requests.ConnectionError):
        return f"the server ended the connection after {received} bytes ({type(error).__name__})"
    return "the server cannot be reached, or ended the connection"
