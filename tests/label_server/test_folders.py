# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bundle.label_server import Address, app_folder, bound_socket, installed_label, private_folder
from bundle.label_server.folders import links_out


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    folder = tmp_path / "sample"
    (folder / "lib").mkdir(parents=True)
    (folder / "main.py").write_text("first")
    (folder / "lib/__init__.py").write_text("")
    return folder


def test_app_folder_is_made_private_and_renewed(tmp_path: Path, sample: Path) -> None:
    for text, bundle in (("first", "old"), ("second", "new")):
        (sample / "main.py").write_text(text)
        (tmp_path / bundle).mkdir()
        folder = app_folder(tmp_path / "app", sample=sample, bundle=tmp_path / bundle, name="net")
        assert (folder / "main.py").read_text() == text
        assert (folder / "model/net").resolve() == (folder / "model/net_deepedit").resolve() == tmp_path / bundle
        assert folder.stat().st_mode & 0o777 == 0o700


def test_folder_of_others_is_no_app_folder(tmp_path: Path, sample: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/a.png").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"studies must be new, empty, or an app folder of an earlier start"):
        app_folder(tmp_path / "studies", sample=sample, bundle=tmp_path, name="net")
    assert [path.name for path in (tmp_path / "studies").iterdir()] == ["a.png"]
    folder = app_folder(tmp_path / "app", sample=sample, bundle=tmp_path, name="net")
    (folder / "model/net").unlink()
    (folder / "model/net").mkdir()
    with pytest.raises(FileExistsError, match=r"model/net must be a link to the bundle"):
        app_folder(folder, sample=sample, bundle=tmp_path, name="net")


def test_private_folder_goes_and_so_do_those_of_killed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from bundle.label_server import private_folder\n"
        "with private_folder() as folder: (folder / 'patient.png').touch(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    with private_folder() as running:
        assert not left.exists()
        assert running.stat().st_mode & 0o777 == 0o700
        with private_folder() as other:  # of a second server: it leaves the first one's alone
            assert {path.name for path in tmp_path.iterdir()} == {running.name, other.name}
        (running / "deep").mkdir()
    assert not list(tmp_path.iterdir())


def test_links_that_lead_out_are_found(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "a.png").write_bytes(b"x")
    (studies / "in.png").symlink_to("a.png")
    (studies / "out.png").symlink_to("../b.png")
    (studies / "through.png").symlink_to("out.png")
    assert sorted(path.name for path in links_out(studies, studies)) == ["out.png", "through.png"]
    assert not list(links_out(studies / "absent", studies))


def test_taken_port_is_named() -> None:
    listener, address = bound_socket(Address(port=0))
    with listener:
        listener.listen()
        assert address.url == f"http://127.0.0.1:{address.port}"
        with pytest.raises(
            OSError, match=f"port {address.port} of 127.0.0.1 must be free, got: Address already in use"
        ):
            bound_socket(address)


def test_missing_label_is_an_error_with_the_command() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"MONAI Label 0.8.5 must be .+ got none.+install -r needs.txt"):
        installed_label(Path("needs.txt"))
