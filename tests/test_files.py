# SPDX-License-Identifier: Apache-2.0
"""No output replaces a file that no earlier run wrote."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bundle.files import LEDGER, OutputFolder, sha256, writable_folder

FOREIGN = "a file that no earlier run lists"
CHANGED = "a file that was changed since an earlier run wrote it"


def listing(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_file_of_an_earlier_run_is_replaced_and_another_is_not(tmp_path: Path) -> None:
    OutputFolder(tmp_path).write("sub/a.png", b"first")
    assert OutputFolder(tmp_path).write("sub/a.png", b"second").read_bytes() == b"second"
    (tmp_path / "b.png").write_bytes(b"truth")
    with pytest.raises(FileExistsError, match=rf"b\.png: expected a free name .*got {FOREIGN}.*another --output_dir"):
        OutputFolder(tmp_path).write("b.png", b"prediction")
    assert (tmp_path / "b.png").read_bytes() == b"truth"


def test_a_file_that_was_corrected_by_hand_is_kept(tmp_path: Path) -> None:
    OutputFolder(tmp_path).write("a.png", b"prediction")
    (tmp_path / "a.png").write_bytes(b"corrected")
    with pytest.raises(FileExistsError, match=rf"a\.png: .*got {CHANGED}; nothing is replaced"):
        OutputFolder(tmp_path).check(["a.png"])
    (tmp_path / "a.png").write_bytes(b"prediction")  # back again
    OutputFolder(tmp_path).check(["a.png"])


def test_a_change_between_check_and_write_is_seen(tmp_path: Path) -> None:
    OutputFolder(tmp_path).write("a.png", b"prediction")
    folder = OutputFolder(tmp_path)
    folder.check(["a.png", "b.png"])
    (tmp_path / "a.png").write_bytes(b"corrected!")
    (tmp_path / "b.png").write_bytes(b"truth")
    for name in ("a.png", "b.png"):
        with pytest.raises(FileExistsError, match=name):
            folder.write(name, b"other")


def test_the_message_counts_the_others(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=r"a \(and 2 more\): "):
        OutputFolder(tmp_path).check(["free", *"abc"])
    assert sorted(listing(tmp_path)) == ["a", "b", "c"]  # a check writes nothing


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.write("a", b"old")

    def fail(new: Path) -> None:
        new.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        folder.write("a", fail)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(listing(tmp_path)) == [LEDGER, "a"]


@pytest.mark.parametrize("place", ["os.replace", "os.write", "grow"])
def test_a_run_killed_at_any_step_can_be_repeated(tmp_path: Path, place: str) -> None:
    """Killed before the rename, before the list, and while a file grows."""
    code = {
        "os.replace": "os.replace = lambda *_: os._exit(9); folder.write('a', b'second')",
        "os.write": "os.write = lambda *_: os._exit(9); folder.write('a', b'second')",
        "grow": "folder.grow('a'); folder.append('a', b'ha'); folder.append('a', b'lf'); os._exit(9)",
    }[place]
    OutputFolder(tmp_path).write("a", b"first")
    code = f"import os, bundle.files; folder = bundle.files.OutputFolder({str(tmp_path)!r}); {code}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "a").read_bytes() == (b"half" if place == "grow" else b"first")
    OutputFolder(tmp_path).write("a", b"third")
    assert sorted(listing(tmp_path)) == [LEDGER, "a"]  # what the killed run left is gone
    (tmp_path / "a").write_bytes(b"changed")
    with pytest.raises(FileExistsError, match=CHANGED):
        OutputFolder(tmp_path).write("a", b"fourth")


def test_a_grown_file_is_known_by_what_it_holds_in_the_end(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    path = folder.grow("lines")
    folder.append("lines", b"1\n")
    folder.append("lines", b"2\n")
    folder.finish("lines")
    assert path.read_text() == "1\n2\n"
    OutputFolder(tmp_path).check(["lines"])
    path.write_text("1\n2\n3\n")
    with pytest.raises(FileExistsError, match=CHANGED):
        OutputFolder(tmp_path).grow("lines")


def test_a_removed_file_leaves_no_right_to_its_name(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.grow("partial")
    folder.append("partial", b"rows")
    folder.remove("partial")
    (tmp_path / "partial").write_text("mine")
    for other in (folder, OutputFolder(tmp_path)):
        with pytest.raises(FileExistsError, match=r"partial: "):
            other.remove("partial")
    assert (tmp_path / "partial").read_text() == "mine"


def test_a_file_that_cannot_be_grown_leaves_no_right_to_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="name too long"):
        OutputFolder(tmp_path).grow("n" * 256)
    assert not (tmp_path / LEDGER).exists()


def test_other_names_of_a_file_keep_what_it_held(tmp_path: Path) -> None:
    """Hard links, as backups make them, and the target of a link."""
    OutputFolder(tmp_path).write("lines", b"old")
    os.link(tmp_path / "lines", tmp_path / "backup")
    (tmp_path / "link").symlink_to("backup")
    folder = OutputFolder(tmp_path)
    folder.grow("lines")
    folder.append("lines", b"new")
    folder.adopt("link")
    folder.write("link", b"new")
    assert (tmp_path / "backup").read_bytes() == b"old"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("kind", ["same", "other path", "symlink", "hard link"])
def test_a_source_is_never_replaced(tmp_path: Path, kind: str) -> None:
    """Even where it is an output of an earlier run."""
    source = OutputFolder(tmp_path).write("clip.mp4", b"frames")
    (tmp_path / "sub").mkdir()
    name = {"same": "clip.mp4", "other path": "sub/../clip.mp4"}.get(kind, "other.mp4")
    if kind == "symlink":
        (tmp_path / name).symlink_to(source)
    if kind == "hard link":
        os.link(source, tmp_path / name)
    with pytest.raises(FileExistsError, match=r"mp4: .*got a file that this run reads; .*another --output\."):
        OutputFolder(tmp_path, option="--output", sources=[source]).grow(name)
    assert source.read_bytes() == b"frames"


def test_links_to_the_folder_and_folders_above_and_below_share_the_list(tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    (top / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(top)
    (top / "linked").symlink_to(elsewhere)
    for number, (folder, name) in enumerate(
        [(top, "sub/a"), (top / "sub", "a"), (tmp_path / "link", "sub/a"), (tmp_path / "link/sub", "a"), (top, "sub/a")]
    ):
        assert OutputFolder(folder).write(name, bytes([number])).read_bytes() == bytes([number])
    for _ in range(2):
        OutputFolder(top).write("linked/b", b"through a folder that is a link")
    (elsewhere / "c").write_text("mine")
    with pytest.raises(FileExistsError, match="linked/c"):
        OutputFolder(top).write("linked/c", b"")


def test_what_is_no_file_or_folder_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "a_mask.png").mkdir()
    (tmp_path / "sub").write_text("a file in the place of a folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, reason in (
        ("a_mask.png", "no plain file"),
        ("dangling", "no plain file"),
        ("sub/b_mask.png", r"no folder at .*sub"),
        ("sub/deeper/b_mask.png", r"no folder at .*sub"),
    ):
        with pytest.raises(FileExistsError, match=rf"{name}: .*got {reason}"):
            OutputFolder(tmp_path).check([name])


def test_a_list_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / LEDGER).symlink_to("victim")
    with pytest.raises(OSError, match=LEDGER):
        OutputFolder(tmp_path).write("a", b"")
    assert listing(tmp_path) == {"victim": b"mine", LEDGER: b"mine"}


def test_a_link_in_the_place_of_an_unfinished_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    names: list[str] = []
    OutputFolder(tmp_path).write("a", lambda new: names.append(new.name))
    (tmp_path / names[0]).symlink_to("victim")
    OutputFolder(tmp_path).write("a", b"content")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "a").read_bytes() == b"content"


def test_a_damaged_list_costs_no_later_line(tmp_path: Path) -> None:
    OutputFolder(tmp_path).write("a", b"1")
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'\n["b", "0123"]\nnull\n[1, 2]\n\xff\xfe\n["half')
    OutputFolder(tmp_path).write("c", b"3")
    for name in "ac":
        OutputFolder(tmp_path).write(name, b"again")
    (tmp_path / "b").touch()
    with pytest.raises(FileExistsError, match=FOREIGN):
        OutputFolder(tmp_path).check(["b"])


def test_names_need_not_be_utf_8_nor_short(tmp_path: Path) -> None:
    latin = os.fsdecode(b"Bef\xfcnd\n_mask.png")
    for name in (latin, "n" * 255):
        for _ in range(2):
            OutputFolder(tmp_path).write(name, b"mask")
        with pytest.raises(FileExistsError, match="this run reads"):
            OutputFolder(tmp_path, sources=[tmp_path / name]).check([name])


def test_processes_and_threads_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from bundle.files import OutputFolder\n"
        "folder = OutputFolder(sys.argv[1])\n"
        "for n in range(200): folder.write(f'{sys.argv[2]}_{n}', sys.argv[2].encode())"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in range(3)]
    folder = OutputFolder(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: folder.write(f"thread_{n}", b"t"), range(200)))
    assert [run.wait() for run in runs] == [0, 0, 0]
    again = OutputFolder(tmp_path)
    again.check([*(f"{p}_{n}" for p in range(3) for n in range(200)), *(f"thread_{n}" for n in range(200))])
    assert len((tmp_path / LEDGER).read_text().split()) == 2 * 800  # none was lost


def test_files_get_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        path = OutputFolder(tmp_path).write("a", b"")
    finally:
        os.umask(former)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_probe_leaves_nothing_and_names_the_options(tmp_path: Path) -> None:
    assert writable_folder(str(tmp_path / "new/folder")) == str(tmp_path / "new/folder")
    assert listing(tmp_path) == {}
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file must be a writable folder, got: .*--output_dir"):
        writable_folder(str(tmp_path / "file"))
    with pytest.raises(OSError, match="'' must be a writable folder, got: an empty name; choose others with --studies"):
        writable_folder("", options="--studies")


def test_the_hash_is_that_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-4, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_check_of_many_files_is_quick(tmp_path: Path) -> None:
    """4000 names take milliseconds where nothing stands; a share of the 45 seconds that 2000 images take."""
    started = time.process_time()
    OutputFolder(tmp_path / "new").check(f"sub/{n}_mask.png" for n in range(4000))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("line", ['["x_mask.png", null]', '["x_mask.png", "growing 1 2"]', '["x_mask.png", "growing"]'])
def test_a_list_of_strangers_gives_no_right_to_a_file(tmp_path: Path, line: str) -> None:
    (tmp_path / LEDGER).write_text(f"{line}\n")
    (tmp_path / "x_mask.png").write_bytes(b"truth")
    with pytest.raises(FileExistsError, match=r"x_mask\.png: expected a free name"):
        OutputFolder(tmp_path).write("x_mask.png", b"prediction")
    assert (tmp_path / "x_mask.png").read_bytes() == b"truth"
