# SPDX-License-Identifier: Apache-2.0
"""The folder of studies: what is not served, what is not stored, and many requests that change it at once."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from tests.monai_label.client import Server
from tests.monai_label.raw_requests import png

pytestmark = pytest.mark.label


def other() -> bytes:
    """Another picture than ``png()``."""
    file = io.BytesIO()
    Image.new("L", (104, 70), 9).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def mixed(
    label_python: str, project: Path, tmp_path_factory: pytest.TempPathFactory, launch: Callable[..., Any]
) -> Iterator[Server]:
    """A server whose studies hold an image, two of one name, a DICOM and a link that leads out; it scores by itself."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "studies/sub").mkdir(parents=True)
    for name in ("studies/gray.png", "studies/case1.png", "studies/case1.jpg", "secret.png"):
        (folder / name).write_bytes(png())
    (folder / "studies/d.dcm").touch()
    (folder / "studies/way.png").symlink_to(folder / "secret.png")
    with launch(label_python, project, folder, scoring=True) as server:
        yield server


def test_the_start_names_what_is_not_served_and_follows_no_link(mixed: Server) -> None:
    printed = mixed.printed.read_text()
    for line in (
        f"warning: {mixed.studies / 'way.png'} leads out of the studies and is not served",
        "warning: not served: d.dcm, sub; images are files that end with .nii.gz",
        "warning: case1.jpg and case1.png have one name: only one of them is served; rename the others",
        f"scoring is not started: {mixed.studies / 'way.png'} leads out of the studies; replace it by a copy",
    ):
        assert line in printed
    assert not requests.get(f"{mixed.url}/scoring/", timeout=60).ok
    assert "epistemic" not in str(mixed.get("datastore/", output="all"))


@pytest.mark.parametrize("content", [b"", b"text", b"<html></html>", b"PK\x03\x04" + bytes(100), png()[:40]])
def test_a_file_that_is_no_image_is_not_stored(mixed: Server, content: bytes) -> None:
    answer = requests.put(f"{mixed.url}/datastore/image", files={"file": ("a.png", content)}, timeout=60)
    assert (answer.status_code, "file: 'a.png' cannot be read as an image: " in answer.text) == (415, True), answer.text
    assert not (mixed.studies / "a.png").exists()


@pytest.mark.parametrize("name", ["gray.jpg", "gray.PNG", "gray.tif"])
def test_another_suffix_of_a_known_image_is_not_stored(mixed: Server, name: str) -> None:
    for query in ({}, {"image": "gray"}):
        answer = requests.put(f"{mixed.url}/datastore/", params=query, files={"file": (name, png())}, timeout=60)
        assert (answer.status_code, "image 'gray' is there as gray.png, got" in answer.text) == (409, True), answer.text
    assert requests.put(f"{mixed.url}/datastore/", files={"file": ("gray.png", png())}, timeout=60).ok


def put(server: Server, what: str, name: str, content: bytes, **query: str) -> requests.Response:
    """Sends an image ("file") or a label."""
    path = "datastore/" if what == "file" else "datastore/label"
    return requests.put(f"{server.url}/{path}", params=query, files={what: (name, content)}, timeout=60)


def test_an_image_with_a_label_is_replaced_by_no_other(mixed: Server) -> None:
    for name in ("us.2024.01.png", "us.2024.02.png", ".us.png", "us.png.png"):
        answer = put(mixed, "file", name, png())
        assert (answer.status_code, "give the image's name, image=NAME" in answer.text) == (400, True), answer.text
    assert put(mixed, "file", "us.2024.01.png", png(), image="us.2024.01").ok
    assert put(mixed, "file", "x.png", other(), image="us.2024.01").ok  # no label so far
    assert put(mixed, "label", "m.png", png(), image="us.2024.01").ok
    answer = put(mixed, "file", "x.png", png(), image="us.2024.01")
    assert (answer.status_code, "has labels (final)" in answer.text) == (409, True), answer.text
    assert put(mixed, "file", "x.png", other(), image="us.2024.01").ok
    assert (mixed.studies / "us.2024.01.png").read_bytes() == other()
    assert list(mixed.get("datastore/", output="all")["objects"]["us.2024.01"]["labels"]) == ["final"]
    mixed.remove_label("us.2024.01")
    assert put(mixed, "file", "x.png", png(), image="us.2024.01").ok
    mixed.call("DELETE", "datastore/", params={"id": "us.2024.01"})


def test_a_deleted_label_does_not_come_back_as_a_former_one(mixed: Server) -> None:
    final = mixed.studies / "labels/final"
    for name in ("m.png", "m.nii.gz", "m.nrrd"):
        assert put(mixed, "label", name, name.encode(), image="gray").ok
        assert [path.name for path in final.glob("gray.*")] == [f"gray{name[1:]}"]
    assert mixed.call("GET", "datastore/label", params={"label": "gray", "tag": "final"}).content == b"m.nrrd"
    mixed.remove_label("gray")
    shutil.copy(mixed.studies / "gray.png", mixed.studies / "after.png")
    end = time.monotonic() + 30
    while "after" not in (objects := mixed.get("datastore/", output="all")["objects"]):
        assert time.monotonic() < end, objects
        time.sleep(0.5)
    assert (objects["gray"]["labels"], list(final.glob("gray.*"))) == ({}, [])
    mixed.call("DELETE", "datastore/", params={"id": "after"})


def test_many_changes_at_once_leave_the_list_as_the_folder_is(mixed: Server) -> None:
    (mixed.studies / "way.png").unlink()
    content = png()

    def add(number: int) -> int:
        query, file = {"image": f"v{number}"}, {"file": ("x.png", content)}
        return requests.put(f"{mixed.url}/datastore/", params=query, files=file, timeout=120).status_code

    def label(number: int) -> int:
        query, file = {"image": f"v{number}"}, {"label": ("m.png", content)}
        return requests.put(f"{mixed.url}/datastore/label", params=query, files=file, timeout=120).status_code

    def remove(number: int) -> int:
        return requests.delete(f"{mixed.url}/datastore/", params={"id": f"v{number}"}, timeout=120).status_code

    with ThreadPoolExecutor(8) as clients:
        for change in (add, label, remove):
            assert set(clients.map(change, range(150))) == {200}, change
    shutil.copy(mixed.studies / "gray.png", mixed.studies / "new.png")
    end = time.monotonic() + 30
    while set(mixed.get("datastore/", output="all")["objects"]) != {"gray", "case1", "new"}:
        assert time.monotonic() < end, mixed.get("datastore/")
        time.sleep(0.5)
    assert "Exception in thread" not in mixed.printed.read_text()
