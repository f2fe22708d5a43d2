# SPDX-License-Identifier: Apache-2.0
"""A file that grows while a run goes on is known by what it holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from bundle.files import OutputFolder


@pytest.mark.parametrize("step", ["grow", "append"])
def test_what_a_user_writes_in_the_place_of_a_killed_runs_file_is_kept(tmp_path: Path, step: str) -> None:
    """Over it, at its end, and a new file that gets its inode."""
    folder = OutputFolder(tmp_path)
    grown = folder.grow("table.csv")
    if step == "append":
        folder.append("table.csv", b"part")
    OutputFolder(tmp_path).check(["table.csv"])  # killed here
    held = grown.read_bytes()
    for content in (b"mine", held + b", corrected"):
        grown.write_bytes(content)  # the same inode
        for call in (OutputFolder(tmp_path).grow, OutputFolder(tmp_path).remove):
            with pytest.raises(FileExistsError, match=r"table\.csv: expected a free name"):
                call("table.csv")
        assert grown.read_bytes() == content
    grown.write_bytes(held)
    OutputFolder(tmp_path).grow("table.csv")


def test_a_run_killed_between_the_list_and_an_append_can_be_repeated(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    path = folder.grow("lines")
    folder.append("lines", b"1\n")
    folder.append("lines", b"2\n")
    path.write_bytes(b"1\n")
    OutputFolder(tmp_path).check(["lines"])


def test_a_growing_file_whose_name_was_taken_leaves_the_other_alone(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    path = folder.grow("lines")
    path.unlink()
    path.write_text("mine")
    folder.append("lines", b"1\n")
    folder.finish("lines")
    assert path.read_text() == "mine"
    with pytest.raises(FileExistsError, match="lines: "):
        OutputFolder(tmp_path).grow("lines")


def elsewhere(folder: Path, *steps: str) -> list[str]:
    """The command of another process that does steps with the outputs in a folder."""
    code = [
        "import bundle.files, resource, signal, time",
        f"folder = bundle.files.OutputFolder({str(folder)!r})",
        *steps,
    ]
    return [sys.executable, "-c", "\n".join(code)]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of a file")
def test_what_a_running_process_grows_is_not_taken_over(tmp_path: Path) -> None:
    steps = "folder.grow('lines'); folder.append('lines', b'1'); print('grown', flush=True); time.sleep(600)"
    with subprocess.Popen(elsewhere(tmp_path, steps), stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"grown\n"
            with pytest.raises(FileExistsError, match=r"lines: another run writes to this folder now; wait for it, or"):
                OutputFolder(tmp_path).grow("lines")
            assert (tmp_path / "lines").read_bytes() == b"1"
        finally:
            other.kill()
    OutputFolder(tmp_path).grow("lines")
    assert (tmp_path / "lines").read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process")
def test_what_a_full_disk_cuts_is_not_added(tmp_path: Path) -> None:
    command = elsewhere(
        tmp_path,
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        "folder.grow('lines'); folder.append('lines', b'1' * 1500)",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))",
        "try: folder.append('lines', b'2' * 1500)",
        "except OSError: print('refused')",
    )
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "refused\n"
    assert (tmp_path / "lines").read_bytes() == b"1" * 1500
    OutputFolder(tmp_path).grow("lines")
