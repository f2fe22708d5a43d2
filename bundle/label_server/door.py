# SPDX-License-Identifier: Apache-2.0
"""What every request passes before the stock MONAI Label server: where it comes from, what it asks for, what it names.

MONAI Label 0.8.5 checks none of this: it joins names to paths, evaluates settings that begin with ``$``, and answers
every web page.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePath
from typing import Any

from bundle.failures import reason
from bundle.label_server.checks import (
    SUFFIXES,
    Refused,
    check_file_name,
    check_name,
    check_result,
    check_settings,
    parsed_settings,
)
from bundle.label_server.requests import (
    FORMS,
    App,
    Message,
    Receive,
    Request,
    Send,
    body_kind,
    check_route,
    check_sender,
    check_session,
    read_body,
)
from bundle.label_server.studies import check_replaced, study_links_out
from bundle.transforms.readers import read_file

TASKS = ("train", "scoring", "batch", "activelearning")
FIXED_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin")]


class Door:
    """An ASGI app in front of MONAI Label's.

    Args:
        app: MONAI Label's.
        studies: folder of the images; no link in it may be followed out of it.
        temporary: folder where MONAI Label's requests put their files; nothing else may be in it.
        hosts: names and addresses that clients may call this server by.
        known: gives the names of models, trainers, scoring and strategies.
        image_path: gives the path of an image's file, empty for an unknown image.
    """

    def __init__(
        self,
        app: App,
        *,
        studies: Path,
        temporary: Path,
        hosts: Collection[str],
        known: Callable[[], Mapping[str, Collection[str]]],
        image_path: Callable[[str], str],
    ) -> None:
        self.app, self.studies, self.temporary = app, studies, temporary
        self.hosts, self.known, self.image_path = hosts, known, image_path
        self._begun: dict[str, float] = {}  # requests that are being answered, and when each began

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with why not."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            check_sender(scope, self.hosts)
            names = check_route(scope)
            request = Request(scope, names, await read_body(scope, receive), receive)
            self._check_names(request)
            await self._check_content(request)
        except Refused as refused:
            logging.getLogger(__name__).warning("refused %s %r: %s", scope["method"], scope["path"][:200], refused)
            return await answer(send, refused.status, str(refused))
        await self._pass_on(request, send)

    def _check_names(self, request: Request) -> None:
        """Models, images, tags and sessions that the address names."""
        for kind, name in request.names.items():
            if kind == "session":
                check_session(name)
            elif name not in self.known()[kind]:
                raise Refused(f"{name[:80]!r} is unknown; {kind} are {', '.join(self.known()[kind])}.", status=404)
        for key, value in request.query:
            if key in ("image", "id", "label") and value:
                self._check_image(key, value, new=request.adds_image)
            elif key == "tag" and value:
                check_name(key, value)
            elif key == "session_id" and value:
                check_session(value)
            elif key == "uncompress" and value.lower() not in ("", "false", "0"):
                raise Refused("uncompress is not served: archives may write anywhere; send the image itself.")
        if request.path.split("/")[1] in TASKS or request.path == "/datastore/dataset":
            self._check_links("")

    def _check_image(self, key: str, name: str, *, new: bool) -> None:
        check_name(key, name)
        if not (new or self.image_path(name)):
            raise Refused(f"{key}: there is no image {name!r}; GET /datastore/?output=all lists them.", status=404)
        self._check_links(name)

    def _check_links(self, name: str) -> None:
        """Refuses images and labels whose name begins so, and folders of labels, that are links out of the studies."""
        labels = self.studies / "labels"
        for path in study_links_out(self.studies):
            if path.name.startswith(name) or labels in (path, path.parent):
                raise Refused(f"{path} is a link that leads out of the studies; replace it by a copy.", status=403)

    async def _check_content(self, request: Request) -> None:
        """Files and settings that the body holds. They are read with the parsers that MONAI Label's reads them with."""
        from starlette.formparsers import MultiPartException
        from starlette.requests import Request as Reader

        if not request.body.strip():
            return self._check_asked(request, {}, "")
        if body_kind(request.scope["headers"]) not in FORMS:
            settings = parsed_settings("the body", request.body)
            check_settings(settings, self.known())
            return self._check_asked(request, settings, "")
        scope = {key: value for key, value in request.scope.items() if key != "app"}
        try:
            form = await Reader(scope, request.receiver()).form()
        except MultiPartException as e:
            raise Refused(
                f"the form cannot be read: {e.message} A field such as params may hold 1 MB, a mask in it included;"
                " send images as files."
            ) from None
        try:
            for key, value in form.multi_items():
                self._check_field(request, key, value if isinstance(value, str) else None, value)
            sent = form.get("file")
            params = form.get("params")
            name = "" if sent is None or isinstance(sent, str) else str(sent.filename)
            settings = parsed_settings("params", params if isinstance(params, str) else "")
            self._check_asked(request, settings, name)
        finally:
            await form.close()

    def _check_field(self, request: Request, key: str, text: str | None, value: Any) -> None:
        stored = request.path.startswith("/datastore")
        if text is None:
            check_file_name(key, value.filename, stored=stored)
            if request.adds_image:
                self._check_new_image(key, dict(request.query).get("image", ""), value)
        elif key in ("params", "info", "wsi"):
            settings = parsed_settings(key, text)
            if not stored:
                check_settings(settings, self.known())

    def _check_new_image(self, key: str, image: str, sent: Any) -> None:
        """Refuses a file that is no image, and one that takes the place of another image without saying so."""
        name = re.split(r"[/\\]", sent.filename)[-1]
        suffix = next(suffix for suffix in SUFFIXES if name.lower().endswith(suffix))
        if not image:
            self._check_image(f"{key}: the name of the file", sent.filename, new=True)
            if name.count(".") > suffix.count("."):
                raise Refused(
                    f"{key}: {name!r} must have no dot before its suffix {suffix}: MONAI Label drops what follows the"
                    " first dot, and images would replace each other; give the image's name, image=NAME."
                )
        image = image or name[: -len(suffix)]
        there = self.image_path(image)
        if there and not there.endswith(name[-len(suffix) :]):
            raise Refused(
                f"{key}: image {image!r} is there as {Path(there).name}, got {name!r}; send that suffix to replace it,"
                " or choose another name.",
                status=409,
            )
        with tempfile.NamedTemporaryFile(dir=self.temporary, suffix=suffix) as copy:
            shutil.copyfileobj(sent.file, copy)
            copy.flush()
            try:
                read_file(copy.name)
            except Exception as error:
                why = reason(error).replace(f"{copy.name}: ", "")
                raise Refused(f"{key}: {name!r} cannot be read as an image: {why}", status=415) from None
            check_replaced(self.studies, image, there=there, sent=copy.name)

    def _check_asked(self, request: Request, settings: Mapping[str, Any], sent: str) -> None:
        """Refuses a request for a mask of no image, and for pixels that its file cannot hold."""
        if "infer" not in request.path.split("/"):
            return
        query = dict(request.query)
        image = self.image_path(query["image"]) if query.get("image") else ""
        if not (image or sent or query.get("session_id") or request.path.startswith("/batch")):
            raise Refused("image must name an image, or file must hold one, got neither; GET /datastore/ lists them.")
        check_result(settings, "".join(PurePath(sent or image).suffixes))

    async def _pass_on(self, request: Request, send: Send) -> None:
        """Has MONAI Label answer, says why where it fails, and removes the files that the request leaves."""
        held: list[Message] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", []) if not pair[0].startswith(b"access-control-")]
                message["headers"] = [*headers, *FIXED_HEADERS]
            if held or message.get("status") == 500:
                held.append(message)
            else:
                await send(message)

        number = uuid.uuid4().hex
        self._begun[number] = time.time()
        try:
            await self.app(request.scope, request.receiver(), guarded)
            for message in held:
                await send(message)
        except Exception as error:
            if held:
                await answer(send, 500, reason(error))
            raise
        finally:
            del self._begun[number]
            self._sweep()

    def _sweep(self) -> None:
        """Removes temporary files that are older than every request that is still being answered."""
        oldest = min(self._begun.values(), default=float("inf"))
        for path in self.temporary.iterdir():
            try:
                if path.lstat().st_ctime < oldest - 1:  # the clock of files is coarse
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except FileNotFoundError:  # MONAI Label was faster
                continue


async def answer(send: Send, status: int, detail: str) -> None:
    """Answers as FastAPI does: JSON with ``detail``."""
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *FIXED_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
