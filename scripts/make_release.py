# SPDX-License-Identifier: Apache-2.0
"""Makes the release zip of a commit: the same bytes from the same commit, whoever makes it and wherever.

  python scripts/make_release.py
  python scripts/make_release.py --commit v0.6.1 --output releases

Only what is committed goes in: no caches, no data, no local changes. Entries are ultrasound_uperconvnext/..., as
monai.bundle download and MONAI Label want them. Prints path, size and SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.failures import failed
from bundle.files import OutputFolder

ROOT = Path(__file__).resolve().parents[1]
NAME = "ultrasound_uperconvnext"
LARGEST_FILE = 25_000_000  # bytes; the model zoo takes no larger file into its repository
LEFT_OUT = (
    *(".*", "Makefile", "tests/*"),
    *("scripts/make_release.py", "scripts/benchmark.py", "scripts/benchmarks/*"),
)
"""What only the development needs: tests, checks and benchmarks need the repository, git and development tools."""

NEEDED = (
    *("LICENSE", "README.md", "CHANGELOG.md", "docs/README.md", "bundle/__init__.py", "models/model.pt"),
    *("configs/metadata.json", "configs/train.yaml", "configs/inference.yaml"),
)
FILE_MODES = {"100644": 0o100644, "100755": 0o100755}  # git's, whatever the umask


@dataclass(frozen=True)
class File:
    """A committed file: its content and its mode as in ``st_mode``."""

    content: bytes
    mode: int


def main(arguments: list[str] | None = None) -> int:
    """Makes one zip; 0 when it is written, 1 when the commit is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="HEAD", help="commit, tag or branch (default: HEAD)")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder of the zip (default: dist)")
    options = parser.parse_args(arguments)
    try:
        commit = resolve(options.commit)
        files = committed_files(commit)
        version = checked_version(files, commit)
        content = zip_content(
            files, seconds=int(git("show", "--no-patch", "--no-show-signature", "--format=%ct", commit))
        )
        path = OutputFolder(options.output, option="--output").write(f"{NAME}_v{version}.zip", content)
    except Exception as error:
        return failed(error)
    print(path)
    print(f"{len(content)} bytes ({len(content) / 1e6:.1f} MB), {len(files)} files of commit {commit}")
    print(f"SHA-256 {hashlib.sha256(content).hexdigest()}")
    return 0


def resolve(name: str) -> str:
    """The full id of a commit of this repository.

    Raises:
        ValueError: when the script is in no repository of its own, or that has no such commit.
    """
    top = git("rev-parse", "--show-toplevel").decode().rstrip("\n")
    if Path(top).resolve() != ROOT:
        raise ValueError(f"{ROOT} must be a git repository, got a folder in {top}; clone the repository.")
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    except ValueError:
        raise ValueError(f"--commit must name a commit of {ROOT}, got {name!r}; see git log.") from None


def committed_files(commit: str) -> dict[str, File]:
    """Path -> file of all that goes into the zip, as committed: no end of line is converted, no keyword expanded.

    Raises:
        ValueError: when one is a link or a submodule, which not every system unpacks.
    """
    entries = []
    for line in git("ls-tree", "-r", "-z", "--full-tree", commit).decode().rstrip("\0").split("\0"):
        (mode, _, blob), path = line.split("\t")[0].split(), line.split("\t", 1)[1]
        if any(fnmatchcase(path, pattern) for pattern in LEFT_OUT):
            continue
        if mode not in FILE_MODES:
            raise ValueError(f"{path} must be a plain file, got a link or a submodule; replace it and commit.")
        entries.append((path, FILE_MODES[mode], blob))
    contents = blobs([blob for _, _, blob in entries])
    return {path: File(content, mode) for (path, mode, _), content in zip(entries, contents, strict=True)}


def blobs(names: list[str]) -> list[bytes]:
    """What git stores under these names."""
    stream = io.BytesIO(git("cat-file", "--batch", stdin="\n".join(names).encode()))
    contents = []
    for _ in names:
        size = int(stream.readline().split()[2])
        contents.append(stream.read(size))
        stream.read(1)  # the line end that git puts behind each
    return contents


def checked_version(files: dict[str, File], commit: str) -> str:
    """The version that the commit's files agree on.

    Raises:
        ValueError: when a file is missing or too large, or versions differ.
    """
    for path in NEEDED:
        if path not in files:
            raise ValueError(f"commit {commit[:12]} must hold {path}, got none; add it and commit.")
    for path, file in files.items():
        if len(file.content) > LARGEST_FILE:
            raise ValueError(
                f"{path} must have at most {LARGEST_FILE} bytes, got {len(file.content)}; make it smaller and commit."
            )
    package, changes = (files[path].content.decode() for path in ("bundle/__init__.py", "CHANGELOG.md"))
    found: dict[str, str] = {
        "bundle/__init__.py": "".join(re.findall(r'^__version__ = "(.*)"$', package, re.MULTILINE)),
        "configs/metadata.json": str(json.loads(files["configs/metadata.json"].content).get("version")),
        "CHANGELOG.md (newest section)": (re.findall(r"^## \[(.*?)\]", changes, re.MULTILINE) or [""])[0],
    }
    version = found["bundle/__init__.py"]
    if set(found.values()) != {version} or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        listed = ", ".join(f"{value or 'none'} in {path}" for path, value in found.items())
        raise ValueError(f"the version must be one and the same, such as 1.0.0, got {listed}; correct and commit.")
    return version


def zip_content(files: dict[str, File], *, seconds: int) -> bytes:
    """The zip: nothing in it depends on the machine, the time zone or the versions of Python and zlib.

    Args:
        files: path -> file.
        seconds: time stamp of all entries, since 1970; a zip has no time zone, so UTC is written.
    """
    buffer = io.BytesIO()
    # Stored, not deflated: zlib's bytes differ between its versions, and the weights would shrink by 8 % alone.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(f"{NAME}/{path}", date_time=time.gmtime(seconds)[:6])
            entry.create_system = 3  # Unix, on Windows too: the mode below is Unix's
            entry.external_attr = files[path].mode << 16
            archive.writestr(entry, files[path].content)
    return buffer.getvalue()


def git(*arguments: str, stdin: bytes = b"") -> bytes:
    """What a git command prints.

    Raises:
        ValueError: when it fails; the message is git's.
    """
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} in {ROOT}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
