# SPDX-License-Identifier: Apache-2.0
"""What of a folder of studies is not served, and the guard of MONAI Label's list of them."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from bundle.label_server.checks import Refused
from bundle.label_server.studies import (
    check_replaced,
    guard_labels,
    guard_scoring,
    guard_store,
    study_links_out,
    unserved,
)


def test_what_is_not_served_is_named_in_a_line_each(tmp_path: Path) -> None:
    for name in ("a.png", "case1.png", "case1.jpg", "d.dcm", "e.jpeg", "F.PNG", "G.PNG", "x.svs", "y.mha", "z.bmp"):
        (tmp_path / name).touch()
    for folder in ("sub", "labels", "b.png"):
        (tmp_path / folder).mkdir()
    listed = {"G": {"image": {"ext": ".PNG"}}, "gone": {"image": {"ext": ".mha"}}}
    (tmp_path / "datastore_v2.json").write_text(json.dumps({"objects": listed}))
    (tmp_path / ".lock").touch()
    others, stems = unserved(tmp_path)
    assert others == (
        "not served: F.PNG, b.png, d.dcm, e.jpeg, sub and 3 more; images are files that end with .nii.gz .nii .nrrd"
        " .jpg .png .tif, in lower case"
    )
    assert stems == "case1.jpg and case1.png have one name: only one of them is served; rename the others"


def test_a_name_that_holds_its_suffix_twice_is_not_served(tmp_path: Path) -> None:
    for name in ("scan.png.png", "a.png.b.png", "c.nii.gz.nii", "d.nii.nii.gz", "e.jpg.png"):
        (tmp_path / name).touch()
    (line,) = unserved(tmp_path)
    assert line == (
        "not served: a.png.b.png, c.nii.gz.nii, scan.png.png; the suffix must stand once in a name, at its end; rename"
        " them"
    )
    listed = {name: {"image": {"ext": ".png"}} for name in ("scan.png", "a.png.b")}
    (tmp_path / "datastore_v2.json").write_text(json.dumps({"objects": listed}))  # as uploads with a name are
    assert list(unserved(tmp_path)) == [line.replace("a.png.b.png, ", "").replace(", scan.png.png", "")]


def labeled(studies: Path) -> Path:
    """A study ``us`` in a folder with two tags."""
    for tag in ("final", "original"):
        (studies / "labels" / tag).mkdir(parents=True)
    (studies / "us.png").write_text("former")
    return studies / "us.png"


@pytest.mark.parametrize("label", ["final/us.png", "original/us.nii.gz", "final/us.PNG"])
def test_an_image_with_labels_is_not_replaced_by_another(tmp_path: Path, label: str) -> None:
    there, sent = labeled(tmp_path), tmp_path / "sent"
    sent.write_text("latter")
    for name in ("final/us.2024.png", "final/us2.png", "final/us"):
        (tmp_path / "labels" / name).touch()
    check_replaced(tmp_path, "us", there=str(there), sent=str(sent))
    (tmp_path / "labels" / label).touch()
    with pytest.raises(
        Refused, match=rf"image 'us' is there .* has labels \({label[:5]}.*; delete them first"
    ) as caught:
        check_replaced(tmp_path, "us", there=str(there), sent=str(sent))
    assert caught.value.status == 409
    check_replaced(tmp_path, "us", there="", sent=str(sent))
    sent.write_text("former")
    check_replaced(tmp_path, "us", there=str(there), sent=str(sent))


class Labels:
    """As MONAI Label's list of labels: it knows the one that was saved last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ext, self._datastore = folder, "", self

    def label_path(self, tag: str) -> str:
        return str(self.folder / tag)

    def label(self, image: str, tag: str) -> "Labels":
        return self

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Any) -> str:
        self.ext = label_filename.removeprefix("m")
        (self.folder / label_tag / f"{image_id}{self.ext}").write_text(label_filename)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        (self.folder / label_tag / f"{label_id}{self.ext}").unlink()

    def add_image(self, image_id: str) -> str:
        return image_id


def test_an_image_has_one_label_in_a_tag(tmp_path: Path) -> None:
    for name in ("final/us2.png", "final/us.b.png", "original/us.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    others = set(tmp_path.glob("*/*"))
    guard_labels(Labels)
    labels = Labels(tmp_path)
    for name in ("m.png", "m.nii.gz", "m.PNG", "m.nrrd"):
        assert labels.save_label("us", name, "final", {}) == "us"
        assert set(tmp_path.glob("*/*")) - others == {tmp_path / f"final/us{name[1:]}"}
    (tmp_path / "final/us.png").touch()  # of a server without the guard
    labels.remove_label("us", "final")
    assert set(tmp_path.glob("*/*")) == others


def test_a_folder_without_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    assert list(unserved(tmp_path))[-1].startswith(f"{tmp_path} holds no image so far; add files that end with .nii.gz")
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "sub").rmdir()
    assert list(unserved(tmp_path)) == []


class Store:
    """As MONAI Label's: a list that one thread goes through while another changes it."""

    def __init__(self) -> None:
        self.objects, self.begun = {"a": 1, "b": 2}, threading.Event()

    def names(self) -> list[str]:
        return [name for name in self.objects if self.begun.set() is None and not threading.Event().wait(0.1)]

    def add(self) -> None:
        self.objects["c"] = 3

    def _on_any_event(self, event: Any) -> None:
        raise RuntimeError(event)


def test_one_thread_at_a_time_is_in_the_list_and_the_watch_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    guard_store(Store)
    store = Store()
    other = threading.Thread(target=lambda: store.begun.wait(10) and store.add())
    other.start()
    assert store.names() == ["a", "b"]
    other.join()
    assert store.names() == ["a", "b", "c"]
    store._on_any_event("dictionary changed size during iteration")
    assert "the folder of studies changed while it was read" in caplog.text


def test_scoring_does_not_start_while_a_link_leads_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class App:
        def async_scoring(self, method: str | None) -> dict[str, Any]:
            return {"started": method}

    studies = tmp_path / "studies"
    (studies / "labels/final").mkdir(parents=True)
    guard_scoring(App, studies)
    assert App().async_scoring(None) == {"started": None}
    for link in (studies / "way.png", studies / "labels/final/way.png"):
        link.symlink_to(tmp_path / "secret.png")
        assert list(study_links_out(studies)) == [link]
        assert App().async_scoring(None) == {}
        assert f"scoring is not started: {link} leads out of the studies" in caplog.text
        link.unlink()
