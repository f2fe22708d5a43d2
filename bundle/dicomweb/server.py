# SPDX-License-Identifier: Apache-2.0
"""What a DICOMweb server lists (QIDO-RS) and what it sends (WADO-RS)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from dicomweb_client.api import DICOMwebClient
from requests.exceptions import JSONDecodeError

from bundle.dicomweb.address import Address, is_uid
from bundle.dicomweb.session import BoundedSession
from bundle.failures import one_line

PAGE = 1000
"""Entries that are asked for at once."""

UIDS = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}
MODALITY = "00080060"

Entry = dict[str, Any]


class Server:
    """A DICOMweb server.

    Args:
        address: where it is.

    Raises:
        OSError, ValueError: in its methods, when the server does not answer, or with something else.
    """

    def __init__(self, address: Address) -> None:
        logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # it tells each request
        self.session = BoundedSession()
        self.client = DICOMwebClient(address.url, session=self.session)
        self.client.set_http_retry_params(retry=False)
        self.url = address.url

    def studies(self) -> Iterator[str]:
        """UIDs of all studies."""
        return (uid for uid, _ in self._pages("study", self.client.search_for_studies))

    def series(self, study: str) -> Iterator[tuple[str, str]]:
        """UID and modality of each series of a study; "" where it is not told."""
        for uid, entry in self._pages("series", self.client.search_for_series, study_instance_uid=study):
            yield uid, str(_first(entry, MODALITY) or "").strip().upper()

    def instances(self, study: str, series: str) -> Iterator[str]:
        """UIDs of the instances of a series."""
        keys = {"study_instance_uid": study, "series_instance_uid": series}
        return (uid for uid, _ in self._pages("instance", self.client.search_for_instances, **keys))

    def _pages(self, level: str, search: Callable[..., Any], **keys: str) -> Iterator[tuple[str, Entry]]:
        """UID and entry of each result, page by page, until one brings nothing new: some servers ignore ``offset``."""
        seen: set[str] = set()
        offset = 0
        while True:
            try:
                page = search(**keys, limit=PAGE, offset=offset)
            except (JSONDecodeError, RecursionError) as error:
                raise ValueError("the server must list JSON, lists something else") from error
            if not isinstance(page, list) or not all(isinstance(entry, dict) for entry in page):
                raise ValueError(f"the server must list objects, lists others for each {level}")
            before = len(seen)
            for entry in page:
                uid = _first(entry, UIDS[level])
                if not is_uid(uid):
                    raise ValueError(f"the server must list UIDs, lists {one_line(repr(uid)[:80])} as {level}")
                if uid not in seen:
                    seen.add(uid)
                    yield uid, entry
            if len(seen) == before:
                return
            offset += len(page)

    def file(self, study: str, series: str, instance: str) -> bytes:
        """An instance as the file that it is stored as, in its own transfer syntax."""
        url = f"{self.url}/studies/{study}/series/{series}/instances/{instance}"
        wanted = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        response = self.session.get(url, headers={"Accept": wanted, "Accept-Encoding": "identity"})
        return _only_part(response.content, response.headers.get("Content-Type", ""))


def _first(entry: Entry, tag: str) -> Any:
    """The first value of an attribute in the DICOM JSON Model, PS3.18 annex F; None where there is none."""
    attribute = entry.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _only_part(body: bytes, content_type: str) -> bytes:
    """The one part of a multipart message (RFC 2046 section 5.1), or the body where it is none.

    Raises:
        ValueError: when the message is cut, or has another number of parts.
    """
    if not content_type.lower().startswith("multipart/"):
        return body
    boundary = re.search(r';\s*boundary=(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
    if boundary is None:
        raise ValueError("the server must name the boundary of its parts, names none")
    mark = re.escape(b"--" + (boundary[1] or boundary[2]).encode("latin-1", "replace"))
    marks = [found.span() for found in re.finditer(rb"(?:\A|\r\n)" + mark, body)]
    if not marks or body[marks[-1][1] : marks[-1][1] + 2] != b"--":
        raise ValueError(f"the server's answer is cut after {len(body)} bytes: its end mark is missing")
    if len(marks) != 2:
        raise ValueError(f"the server must send one instance, sends {len(marks) - 1}")
    (_, start), (end, _) = marks
    head = body.find(b"\r\n\r\n", start, end)
    if head < 0:
        raise ValueError("the server must send a part with a header, sends one without")
    return body[head + 4 : end]
