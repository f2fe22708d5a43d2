# SPDX-License-Identifier: Apache-2.0
"""The measurement of growth measures what the bundle accepts."""

import json
import subprocess
import sys
from pathlib import Path

from bundle.data.datalist import load_split
from bundle.data.manifest import check_datalist
from scripts.growth_parts.manifests import NETWORK, make_manifest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "growth.py"


def test_made_up_manifests_are_valid_and_repeat(tmp_path: Path) -> None:
    manifest = make_manifest(300, 1)
    check_datalist(manifest, name="made up")
    assert manifest == make_manifest(300, 1) != make_manifest(300, 2)
    (tmp_path / "datalist.json").write_text(json.dumps(manifest))
    counts = [len(load_split(tmp_path / "datalist.json", split=s, **NETWORK)) for s in ("train", "val", "test")]
    assert counts == [209, 45, 46]  # 70, 15 and 15 %, as far as patients with several images allow


def test_the_manifest_part_writes_figures_and_a_plot(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--parts", "manifest", "--items", "100", "200", "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads((tmp_path / "growth.json").read_text())["manifest"]["rows"]
    assert {row["items"] for row in rows} == {100, 200}
    assert all(row["seconds"] >= 0 and row["peak_mb"] > 10 for row in rows)
    assert [row["pairs"] for row in rows if row["step"] == "near-duplicates"] == [10, 20]
    assert (tmp_path / "growth_manifest.png").stat().st_size > 1000
