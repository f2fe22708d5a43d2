# SPDX-License-Identifier: Apache-2.0
"""A request: who may send it, which paths are served, and its body."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bundle.label_server.checks import Refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
KINDS = ("application/json", *FORMS)
LARGEST_BODY = 100 * 2**20  # bytes of one request
ROUTES = {
    r"/(?:docs|openapi\.json|favicon\.ico)?|/(?:info|logs)/?": "GET",
    r"/model/(?:info/)?(?P<models>[^/]+)": "GET",
    r"/infer/(?P<models>[^/]+)": "POST",
    r"/batch/infer/?|/(?:train|scoring)/?": "GET POST DELETE",
    r"/batch/infer/(?P<models>[^/]+)": "POST",
    r"/train/(?P<trainers>[^/]+)": "POST",
    r"/scoring/(?P<scoring>[^/]+)": "POST",
    r"/activelearning/(?P<strategies>[^/]+)": "POST",
    r"/datastore/?": "GET PUT DELETE",
    r"/datastore/(?:image|label)": "GET HEAD PUT DELETE",
    r"/datastore/(?:image|label)/info": "GET PUT",
    r"/datastore/updatelabelinfo": "PUT",
    r"/datastore/dataset": "GET",
    r"/session/?": "PUT",
    r"/session/(?P<session>[^/]+)": "GET DELETE",
}
"""Path -> methods that 3D Slicer, CVAT, plain clients and the server's own page use. Nothing else is passed on: no
change of weights, no proxy, no slides, no reload."""


@dataclass(frozen=True)
class Request:
    """A request whose sender and path were accepted.

    Attributes:
        scope: of ASGI.
        names: what the path names: models, trainers, scoring, strategies or session.
        body: all of it.
        gone: of ASGI; tells when the client is gone.
    """

    scope: Message
    names: Mapping[str, str]
    body: bytes
    gone: Receive

    @property
    def path(self) -> str:
        """Of the address, decoded."""
        return str(self.scope["path"])

    @property
    def adds_image(self) -> bool:
        """Whether the image that it names is a new one."""
        return self.scope["method"] == "PUT" and self.path.rstrip("/") in ("/datastore", "/datastore/image")

    @property
    def query(self) -> list[tuple[str, str]]:
        """Names and values behind the question mark, decoded as MONAI Label does."""
        return parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)

    def receiver(self) -> Receive:
        """Gives the body to who reads it next."""
        messages: list[Message] = [{"type": "http.request", "body": self.body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await self.gone()

        return receive


def check_sender(scope: Message, hosts: Collection[str]) -> None:
    """Refuses what a foreign web page sends, also through a name that was bound to this address.

    Raises:
        Refused: with status 403.
    """
    sent: dict[bytes, list[str]] = {}
    for key, value in scope["headers"]:
        sent.setdefault(key, []).append(value.decode("latin-1").lower())
    called = sent.get(b"host", [])
    match = re.fullmatch(r"([^:]+)(:\d+)?", called[0]) if len(called) == 1 else None
    if match is None or match[1] not in hosts:
        raise Refused(f"Host must be {' or '.join(dict.fromkeys(hosts))}, got {called}; use that address.", status=403)
    if any(origin != f"http://{called[0]}" for origin in sent.get(b"origin", [])):
        raise Refused("pages of other origins are not answered.", status=403)
    if any(site not in ("same-origin", "none") for site in sent.get(b"sec-fetch-site", [])):
        raise Refused("pages of other sites are not answered; type the address into the browser.", status=403)


def check_route(scope: Message) -> Mapping[str, str]:
    """Names that the path of a served route holds.

    Raises:
        Refused: with status 404 or 405 for what is not served.
    """
    for pattern, methods in ROUTES.items():
        if match := re.fullmatch(pattern, scope["path"]):
            if scope["method"] not in methods.split():
                raise Refused(f"{scope['method'][:20]} is not served here; {methods} are.", status=405)
            return match.groupdict()
    raise Refused("this path is not served; the docs at / list all of MONAI Label's.", status=404)


def body_kind(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Of what kind a request says that its body is: JSON, one of two forms, or "".

    MONAI Label and the parser of forms read this header in different ways; only what they agree on is passed on.

    Raises:
        Refused: with status 415 for another kind, or several.
    """
    sent = [value.decode("latin-1") for key, value in headers if key == b"content-type"]
    kind = "".join(sent).partition(";")[0].strip().lower()
    if len(sent) > 1 or kind not in ("", *KINDS):
        raise Refused(f"Content-Type must be one of {', '.join(KINDS)}, got {', '.join(sent)[:80]!r}.", status=415)
    return kind


def check_session(name: str) -> None:
    """Refuses what is no session's id.

    Raises:
        Refused: with status 404.
    """
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name):
        raise Refused(f"session must be an id that PUT /session/ gave, got {name[:80]!r}.", status=404)


async def read_body(scope: Message, receive: Receive) -> bytes:
    """The body of a request.

    Raises:
        Refused: with status 413 above ``LARGEST_BODY``, 400 when the client is gone.
    """
    too_large = Refused(f"a request may hold {LARGEST_BODY >> 20} MB; send a smaller image.", status=413)
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("the client is gone.")
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)
