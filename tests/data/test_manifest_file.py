# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from bundle.data.datalist import read_datalist
from bundle.data.manifest import SCHEMA_PATH
from bundle.vocabulary import NATURES


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json: expected a manifest .*, got no file"):
        read_datalist(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"version": 1,')
    with pytest.raises(ValueError, match=r"half\.json: expected JSON, got a file that cannot be decoded"):
        read_datalist(tmp_path / "half.json")


def test_the_schema_knows_the_vocabulary() -> None:
    schema = json.loads(SCHEMA_PATH.read_text())
    for kind in ("item", "dataset"):
        assert schema["definitions"][kind]["properties"]["nature"]["enum"] == [*NATURES, "unknown", ""]


def test_a_manifest_of_too_many_levels_is_named(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"datalist\.json: expected JSON"):
        read_datalist(tmp_path / "datalist.json")
