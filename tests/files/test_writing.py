# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from bundle.files import whole_file


def test_an_interruption_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def interrupted() -> None:
        with whole_file(tmp_path / "a", temporary=tmp_path / "b") as file:
            file.write(b"part")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}
    with whole_file(tmp_path / "a", temporary=tmp_path / "b", mode=0o600) as file:
        file.write(b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
