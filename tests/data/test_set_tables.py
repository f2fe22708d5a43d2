# SPDX-License-Identifier: Apache-2.0
"""What a set says of itself goes before what is known of it, and the user's word before both."""

from pathlib import Path

import pytest

from bundle.data.known_sets import SetOptions
from bundle.data.set_config import Label, read_config
from bundle.data.set_tables import class_table, mask_entry, structure_values


def config(folder: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "config.yaml").write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("0:Benign\n1:Malignant\n", [Label(0, "Benign"), Label(1, "Malignant")]),
        (b"\xef\xbb\xbf0:background:0\r\n\r\n1:lesion:255\r\n", [Label(0, "background", 0), Label(1, "lesion", 255)]),
        ("# names\n  1: 'ill' # worse\n0: \"well\"\n---\n", [Label(0, "well"), Label(1, "ill")]),
        ("1:left: ventricle:2", [Label(1, "left: ventricle".replace(": ", ":"), 2)]),
        ("", []),
    ],
)
def test_config_is_read_in_the_forms_that_people_write(tmp_path: Path, content: str, labels: list[Label]) -> None:
    assert read_config(config(tmp_path, content))[1] == labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0:a\n0:b", r"config\.yaml, line 2: expected each index once, got '0:b' after 'a'"),
        ("1:a:255\n2:b:255", r"line 2: expected one name for a value in the mask, got '2:b:255' after 'a'"),
        ("-1:a:1", r"line 1: expected 'index:name' or 'index:name:value in the mask'.* from 0, got '-1:a:1'"),
        ("1:a:-1", r"line 1: expected .*, got '1:a:-1'"),
        ("1:a:70000", r"line 1: expected a value in the mask from 0 to 65535"),
        ("names: [a, b]", r"line 1: expected 'index:name'"),
        ("1:$__import__('os'):255", r"line 1: expected a name that begins with no \$, @ or %"),
        ("1::2", r"line 1: expected 'index:name'"),
        ("0:größe".encode("latin-1"), r"config\.yaml: expected UTF-8 text"),
    ],
)
def test_a_bad_config_is_refused_by_file_and_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(config(tmp_path, content))


def test_two_configs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("0:a")
    with pytest.raises(ValueError, match=r"expected one config\.yaml, got \['config.yaml', 'config.yml'\]"):
        read_config(config(tmp_path, "0:a"))


def classes(folder: Path, name: str, labels: list[str], **options: object) -> tuple[list[str], dict[str, str]]:
    return class_table(folder, name=name, labels=labels, options=SetOptions(**options), notices=[])  # type: ignore[arg-type]


def test_a_sets_own_classes_win_over_the_known_ones(tmp_path: Path) -> None:
    assert classes(tmp_path, "BUSI", ["0", "2"])[1] == {"0": "normal", "2": "malignant"}
    config(tmp_path, "0:benign:0\n1:malignant:1\n")
    assert classes(tmp_path, "BUSI", ["0", "1"]) == (["benign", "malignant"], {"0": "benign", "1": "malignant"})
    assert classes(tmp_path, "BUSI", ["0", "1"], classes={"BUSI": ("a", "b")})[1] == {"0": "a", "1": "b"}


def test_the_index_of_a_line_is_the_folders_number(tmp_path: Path) -> None:
    config(tmp_path, "1:ill\n2:well\n")
    assert classes(tmp_path, "S", ["1", "2"])[1] == {"1": "ill", "2": "well"}
    with pytest.raises(ValueError, match=r"expected label folders 1 to 2 or \['ill', 'well'\], got \['0', '1'\]"):
        classes(tmp_path, "S", ["0", "1"])


def test_folder_names_are_the_sets_own_words(tmp_path: Path) -> None:
    assert classes(tmp_path, "BUSI", ["Benign", "malignant"])[1] == {"Benign": "benign", "malignant": "malignant"}
    assert classes(tmp_path, "BUSI", ["cyst", "malignant"])[0] == ["cyst", "malignant"]
    for labels in (["Benign", "benign"], ["covid 19", "COVID-19"]):
        with pytest.raises(ValueError, match="expected classes of different names"):
            classes(tmp_path, "S", labels)
    with pytest.raises(ValueError, match=r"expected at least two classes, got \['ill'\]; .*--classes S=ill,OTHER"):
        classes(tmp_path, "S", ["ill"])
    config(tmp_path, "0:Biliary Atresia\n1:healthy")
    assert classes(tmp_path, "S", ["biliary_atresia", "Healthy"])[1] == {
        "biliary_atresia": "Biliary Atresia",
        "Healthy": "healthy",
    }


def test_a_sets_own_structures_win_over_the_known_ones(tmp_path: Path) -> None:
    def values(name: str, **told: int) -> tuple[dict[int, str], list[str], list[str]]:
        notices: list[str] = []
        faults: list[str] = []
        options = SetOptions(structures={name: {v: n for n, v in told.items()}})
        return structure_values(tmp_path, name=name, options=options, notices=notices, faults=faults), notices, faults

    assert values("USGRA")[0] == {0: "background", 1: "nerve", 2: "vessel"}
    config(tmp_path, "0:Background:0\n1:artery:1\n")
    found, notices, faults = values("USGRA")
    assert (found, faults) == ({0: "background", 1: "artery"}, [])
    assert "config.yaml calls value 1 in the masks 'artery', which is known as 'nerve'" in notices[0]
    assert values("USGRA", vein=1, nerve=3)[0] == {0: "background", 1: "vein", 3: "nerve"}
    config(tmp_path, "0:background\n1:lesion\n")
    assert "expected the value in the mask of 'lesion'" in values("S")[2][0]
    assert "--structure S=255:lesion" in values("S")[2][0]
    config(tmp_path, "1:lesion:0\n")
    assert "expected value 0 to be background, got 'lesion'" in values("S")[2][0]
    config(tmp_path, "1:foreground:255\n")
    assert values("BUSI")[0] == {0: "background", 255: "lesion"}


def test_a_threshold_is_for_one_structure(tmp_path: Path) -> None:
    options = SetOptions(threshold={"S": 128})
    entry = mask_entry("S", values={0: "background", 255: "cyst"}, options=options)
    assert entry == {"mask_values": {"0": "background", "255": "cyst"}, "mask_threshold": 128}
    for values in ({1: "cyst"}, {200: "cyst", 255: "duct"}):
        with pytest.raises(ValueError, match="--mask-threshold S=128: expected one structure, of a value not below"):
            mask_entry("S", values=values, options=options)
