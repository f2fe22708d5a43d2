# SPDX-License-Identifier: Apache-2.0
"""metadata.json says what the other files say: figures, changes, versions, packages, structures, channels."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from packaging.requirements import Requirement

from bundle.vocabulary import Organs

ROOT = Path(__file__).resolve().parents[1]
OWN_KEYS = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
SCORE = re.compile(r"(-?\d+\.\d+)(?: (px|mm))? \((-?\d+\.\d+) to (-?\d+\.\d+)\)")
WITHOUT_STRUCTURE = "images without the structure"
"""What the column "without it" of docs/results.md is called where no table stands around it."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def metadata() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read("configs/metadata.json"))
    return content


def cell(text: str) -> int | dict[str, Any]:
    """A count (``78*``), or a score with its interval (``91.3 px (67.9 to 118.4)``)."""
    if count := re.fullmatch(r"(\d+)\*?", text):
        return int(count[1])
    found = SCORE.fullmatch(text)
    assert found, f"docs/results.md: expected a count or a score with its interval, got {text!r}"
    value, unit, low, high = found.groups()
    return {"value": float(value), "interval": [float(low), float(high)], **({"unit": unit} if unit else {})}


def table(heading: str) -> dict[str, dict[str, Any]]:
    """First column -> heading -> cell of the table in a section of docs/results.md, without the empty cells."""
    section = re.search(rf"^## {heading}.*?$(.*?)(?=^## |\Z)", read("docs/results.md"), re.MULTILINE | re.DOTALL)
    assert section, f"docs/results.md has no section {heading}"
    lines = re.findall(r"^\| (.+) \|$", section[1], re.MULTILINE)
    (_, *columns), *rows = [line.split(" | ") for line in lines]
    names = [WITHOUT_STRUCTURE if name == "without it" else name for name in columns]
    return {
        row: {name: cell(text) for name, text in zip(names, cells, strict=True) if text != "-"} for row, *cells in rows
    }


def test_scores_are_those_of_the_results() -> None:
    metrics = metadata()["eval_metrics"]
    for kind in ("segmentation", "classification"):
        expected = table(kind.capitalize())
        assert metrics[kind] == expected, f"eval_metrics#{kind} should be\n{json.dumps(expected, indent=2)}"


def test_scores_belong_to_the_shipped_weights() -> None:
    measured = re.findall(r"SHA-256 starting (\w{12})", read("docs/results.md"))
    shipped = hashlib.sha256((ROOT / "models/model.pt").read_bytes()).hexdigest()
    assert shipped[:12] in measured, "evaluate models/model.pt and bring docs/results.md up to date"


@pytest.mark.parametrize("name", ["README.md", "docs/README.md"])
def test_short_tables_have_the_figures_of_the_results(name: str) -> None:
    figures = {found[0] for found in SCORE.finditer(read(name))}
    assert figures
    assert figures <= {found[0] for found in SCORE.finditer(read("docs/results.md"))}


def test_changelog_has_a_line_for_each_version() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", read("CHANGELOG.md"), re.MULTILINE)
    lines = metadata()["changelog"]
    assert list(lines) == versions
    assert all(10 < len(line) <= 120 and line.endswith(".") for line in lines.values())


def test_every_package_has_a_version_that_the_project_allows() -> None:
    """The zoo installs name==version; pip's names of the packages, as in pyproject.toml."""
    block = re.search(r"^dependencies = \[\n(.*?)^\]", read("pyproject.toml"), re.MULTILINE | re.DOTALL)
    assert block
    required = [Requirement(line) for line in re.findall(r'"(.+)"', block[1])]
    content = metadata()
    versions = content["required_packages_version"] | {name: content[key] for name, key in OWN_KEYS.items()}
    assert versions.keys() == {requirement.name for requirement in required}
    for requirement in required:
        assert versions[requirement.name] in requirement.specifier, requirement


def test_monai_label_is_the_one_that_the_server_needs() -> None:
    pinned = re.findall(r"^monailabel==(.+)$", read("requirements-label.txt"), re.MULTILINE)
    assert [metadata()["supported_apps"]["MONAI Label"]] == pinned


def test_tables_are_those_of_the_configs() -> None:
    config, content = ConfigParser.load_config_file(ROOT / "configs/train.yaml"), metadata()
    labels = content["label_classes"]
    organs = Organs(config["organs"])
    for index, name in enumerate(organs.structures):
        assert f"{index} {name}" in labels
        assert name in content["pred_classes"]
    for name, classes in organs.label_sets.items():
        assert f"{name} ({', '.join(classes)})" in labels
    image = content["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == len(image["channel_def"]) == 3 + config["guidance_channels"]
    mean, std = config["image_mean"], config["image_std"]
    black, white = ([(value - m) / s for m, s in zip(mean, std, strict=True)] for value in (0, 1))
    assert image["value_range"] == pytest.approx([min(black), max(white)], abs=5e-3)


def test_data_and_references_are_those_of_the_documents() -> None:
    content, card = metadata(), read("docs/README.md")
    rows = re.findall(r"^\| (.+) \| .+ \| .+ \| (\d+) \| (.+) \|$", card.partition("## Data\n")[2], re.MULTILINE)[:5]
    for name, _, license_name in rows:
        assert re.search(rf"{re.escape(name.split(' (')[0])} \([^()]*{license_name}\)", content["data_source"]), name
    total = sum(int(count) for _, count, _ in rows)
    assert f"{total} images" in content["data_source"]
    assert f"{total} images" in read("docs/results.md")
    assert re.findall(r"arxiv\.org/abs/([\d.]+\d)", " ".join(content["references"])) == re.findall(
        r"^\d+\. .*arxiv\.org/abs/([\d.]+\d)", card, re.MULTILINE
    )
