# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle import __version__

ROOT = Path(__file__).resolve().parents[1]
NAME = "ultrasound_uperconvnext"
ZIP = f"{NAME}_v{__version__}.zip"
IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *IDENTITY, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Change")


def make_release(
    folder: Path, *options: str | Path, umask: int = 0o022, zone: str = "UTC"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, folder / "scripts/make_release.py", *options]
    environment = {**os.environ, "TZ": zone}
    return subprocess.run(command, capture_output=True, text=True, umask=umask, env=environment, cwd=folder)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files of this one as they are now, committed."""
    folder = tmp_path_factory.mktemp("repository")
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Callable[..., Path]:
    """Gives a clone of that repository below ``tmp_path``."""

    def make(name: str = "clone", *options: str) -> Path:
        git(tmp_path, "clone", "--quiet", *options, str(repository), name)
        return tmp_path / name

    return make


@pytest.fixture(scope="module")
def release(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("release")
    done = make_release(repository, "--output", output)
    assert done.returncode == 0, done.stderr
    return output / ZIP


def test_two_clones_give_the_same_bytes(release: Path, clone: Callable[..., Path], tmp_path: Path) -> None:
    other = clone("other", "--config", "core.autocrlf=true")
    (other / "README.md").write_text("changed, not committed")
    (other / "LICENSE").unlink()
    (other / "bundle/notes.txt").write_text("not committed")
    (other / "data").mkdir()
    (other / "data/patient.png").write_bytes(b"not committed")
    (other / "scripts/prepare_data.py").chmod(0o700)
    options = ("--commit", "HEAD~0", "--output", tmp_path / "deep/er")
    done = make_release(other, *options, umask=0o077, zone="Pacific/Auckland")
    assert done.returncode == 0, done.stderr
    path, size, digest = done.stdout.splitlines()
    assert Path(path) == tmp_path / "deep/er" / ZIP
    assert Path(path).read_bytes() == release.read_bytes()
    assert size.startswith(f"{release.stat().st_size} bytes (")
    assert digest == f"SHA-256 {hashlib.sha256(release.read_bytes()).hexdigest()}"


def test_the_zip_holds_what_is_committed(release: Path, repository: Path) -> None:
    with zipfile.ZipFile(release) as archive:
        assert archive.testzip() is None
        entries = {entry.filename.removeprefix(f"{NAME}/"): entry for entry in archive.infolist()}
        contents = {name: archive.read(entry) for name, entry in entries.items()}
    assert list(entries) == sorted(entries)
    assert {entry.filename.split("/")[0] for entry in entries.values()} == {NAME}
    committed = git(repository, "ls-files").splitlines()
    left_out = {name for name in committed if name not in entries}
    assert {name.split("/")[0] for name in left_out} == {
        ".ci", ".gitignore", ".pre-commit-config.yaml", "Makefile", "scripts", "tests",
    }  # fmt: skip
    assert {re.sub(r"benchmarks/.*", "benchmarks", name) for name in left_out if name.startswith("scripts/")} == {
        "scripts/benchmark.py", "scripts/benchmarks", "scripts/make_release.py",
    }  # fmt: skip
    assert all(content == (repository / name).read_bytes() for name, content in contents.items())
    assert {entry.external_attr >> 16 for entry in entries.values()} <= {0o100644, 0o100755}
    assert len({entry.date_time for entry in entries.values()}) == 1


def test_documents_in_the_zip_link_to_files_in_it(release: Path) -> None:
    with zipfile.ZipFile(release) as archive:
        names = archive.namelist()
        texts = {name: archive.read(name).decode() for name in names if name.endswith(".md")}
    for name, text in texts.items():
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if not link.startswith("https://"):
                assert os.path.normpath(os.path.join(os.path.dirname(name), link)) in names, f"{name}: {link}"


def test_documents_in_the_zip_say_what_is_only_in_the_repository(release: Path) -> None:
    """A section that names a script or a test outside the zip says "repository", or the document's beginning does."""
    with zipfile.ZipFile(release) as archive:
        names = [name.removeprefix(f"{NAME}/") for name in archive.namelist()]
        texts = {name: archive.read(f"{NAME}/{name}").decode() for name in names if name.endswith((".md", ".yaml"))}
    del texts["CHANGELOG.md"]
    for document, text in texts.items():
        beginning, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
        for section in [beginning, *sections]:
            absent = set(re.findall(r"\b(?:scripts|tests)/[\w/]+\.py\b", section)) - set(names)
            assert not absent or "repository" in beginning + section, f"{document}: {absent}"


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("docs/large.bin", b"0" * 25_000_001, "docs/large.bin must have at most 25000000 bytes, got 25000001; make it"),
        ("models/model.pt", None, r"commit \w{12} must hold models/model.pt, got none; add it and commit"),
        ("bundle/__init__.py", b'__version__ = "9.8.7"\n', r"9.8.7 in bundle/__init__.py, .* in configs/metadata.json"),
        ("configs/metadata.json", b'{"version": "9.8.7"}', "must be one and the same.*9.8.7 in configs/metadata.json"),
        ("CHANGELOG.md", b"## [Unreleased]\n", r"Unreleased in CHANGELOG.md \(newest section\); correct and commit"),
    ],
)
def test_a_commit_that_is_no_release_is_refused(
    clone: Callable[..., Path], path: str, content: bytes | None, message: str
) -> None:
    folder = clone()
    if content is None:
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(content)
    assert make_release(folder).returncode == 0  # as long as it is not committed
    shutil.rmtree(folder / "dist")
    commit(folder)
    done = make_release(folder)
    assert done.returncode == 1
    assert re.search(f"^error: .*{message}", done.stderr)
    assert not (folder / "dist").exists()


def test_links_are_refused(clone: Callable[..., Path]) -> None:
    folder = clone()
    (folder / "models/best.pt").symlink_to("model.pt")
    git(folder, "add", "--force", "models/best.pt")
    commit(folder)
    assert "models/best.pt must be a plain file, got a link" in make_release(folder).stderr


def test_unknown_commits_and_folders_without_git_are_refused(clone: Callable[..., Path], tmp_path: Path) -> None:
    folder = clone()
    done = make_release(folder, "--commit", "nowhere")
    assert done.returncode == 1
    assert "--commit must name a commit of" in done.stderr
    assert "got 'nowhere'; see git log." in done.stderr
    shutil.rmtree(folder / ".git")
    done = make_release(folder)
    assert done.returncode == 1
    assert re.search(rf"^error: .*{re.escape(str(folder))}", done.stderr)


def zip_commands(document: str) -> list[str]:
    section = (ROOT / document).read_text("utf-8").partition("## From a zip\n")[2]
    return section.split("```")[1].strip().splitlines()


def test_documents_take_this_version_from_a_zip() -> None:
    assert zip_commands("README.md") == zip_commands("docs/README.md")
    assert [shlex.split(line)[:3] for line in zip_commands("README.md")] == [
        ["python", "-m", "monai.bundle"],
        ["pip", "install", "-e"],
        ["python", "-m", "monai.bundle"],
    ]
    assert f"file:///DIR/{ZIP} " in zip_commands("README.md")[0]


@pytest.mark.slow
def test_the_zip_is_downloaded_and_predicts_from_another_folder(release: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 70), np.uint8)).save(images / "a.png")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    download, _, predict = zip_commands("README.md")
    for line, old, new in ((download, "file:///DIR/", f"{release.parent.as_uri()}/"), (predict, "IMAGES", str(images))):
        assert old in line
        command = [sys.executable, *shlex.split(line.replace(old, new))[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    bundle = tmp_path / "bundles" / NAME
    own = bundle / "bundle/sinks/__pycache__"  # its own code ran, not the installed one
    assert list(own.glob("writer.*.pyc"))
    results = json.loads((bundle / "output/predictions.json").read_text())
    assert results["created_by"].endswith(f" {__version__}")
    assert [(image["file"], image["error"]) for image in results["images"]] == [("a.png", "")]
    with Image.open(bundle / "output/a_mask.png") as mask:
        assert mask.size == (70, 48)
