# SPDX-License-Identifier: Apache-2.0
"""The phantom on disk: images, masks and manifest, made on first use and put in place in one step."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from bundle.data.phantom import organs
from bundle.data.phantom.overlay import Bytes, burn_in
from bundle.data.phantom.scan import Grid, Probe, Tissue
from bundle.data.points import axis_ends
from bundle.data.splits import FRACTIONS
from bundle.files import LEDGER, OutputFolder

VERSION = 3
"""Of the generator: one more with every change of its pictures, so that phantoms made before are made again."""

STAMP = "phantom.json"
MIN_PATIENTS = 15
"""One patient of each of the five strata (three classes, head, limb) in each of the three splits."""

CALIPERS = ("caliper_1", "caliper_2")
"""Points of the marks that a scanner draws."""

VIEWS = (2, 5)
"""Images per patient: 2 to 4."""


@dataclass(frozen=True)
class _Kind:
    """One data set of the phantom."""

    name: str
    share: float
    organ: Callable[..., Tissue]
    variants: tuple[str, ...]
    sector: float
    """Share of the patients who are seen with a curved probe."""
    depth_mm: tuple[float, float]
    entry: dict[str, Any]


KINDS = (
    _Kind(
        name="PhantomBreast",
        share=0.54,
        organ=organs.breast,
        variants=("normal", "benign", "malignant"),
        sector=0.12,
        depth_mm=(32.0, 48.0),
        entry={
            "position": "breast",
            "nature": "tumor",
            "mask_values": {"0": "background", "255": "lesion"},
            "label_set": "breast",
            "classes": ["normal", "benign", "malignant"],
        },
    ),
    _Kind(
        name="PhantomHead",
        share=0.22,
        organ=organs.head,
        variants=("head",),
        sector=0.85,
        depth_mm=(60.0, 75.0),
        entry={"position": "head", "nature": "organ", "mask_values": {"0": "background", "255": "head"}},
    ),
    _Kind(
        name="PhantomLimb",
        share=0.24,
        organ=organs.limb,
        variants=("both", "both", "both", "no nerve", "both", "no vessel"),
        sector=0.12,
        depth_mm=(30.0, 45.0),
        entry={"position": "limb", "nature": "organ", "mask_values": {"0": "background", "1": "nerve", "2": "vessel"}},
    ),
)


def datalist_path(dataset_dir: str, *, phantom_dir: str, seed: int, patients: int) -> str:
    """The path of the manifest in ``dataset_dir``; the phantom is made first when it is asked for and not there yet.

    A phantom that was made with another seed, number of patients or generator is made again.

    Args:
        dataset_dir: folder with datalist.json, or the path of a manifest (``*.json``).
        phantom_dir: the folder that holds the phantom.
        seed: of the phantom.
        patients: number of patients of the phantom, 15 or more.

    Raises:
        FileNotFoundError: when there is no manifest and the folder is not the phantom's.
        FileExistsError: when the phantom's folder holds files of other origin.
    """
    if dataset_dir.endswith(".json") and os.path.isfile(dataset_dir):
        return dataset_dir
    folder = Path(dataset_dir)
    if os.path.realpath(dataset_dir) == os.path.realpath(phantom_dir):
        stamp = {"seed": seed, "patients": patients, "version": VERSION}
        foreign = (folder / "datalist.json").is_file() and not (folder / STAMP).is_file()
        if not foreign and _stamp(folder) != stamp:
            synthesize(folder, seed=seed, patients=patients)
    if not (folder / "datalist.json").is_file():
        raise FileNotFoundError(
            f"dataset_dir {dataset_dir}: expected a folder with datalist.json, or the path of a manifest (*.json), got "
            "neither; make the manifest with scripts/prepare_data.py, or leave --dataset_dir out to use the phantom in "
            f"{phantom_dir}."
        )
    return str(folder / "datalist.json")


def is_phantom(items: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all items are of the phantom's data sets."""
    return all(item.get("dataset") in {kind.name for kind in KINDS} for item in items)


def synthesize(root: Path, *, seed: int, patients: int) -> Path:
    """Make the phantom in the folder ``root`` and return the path of its manifest.

    The same seed and patients give the same bytes. The folder appears complete or not at all: when two processes make
    it at the same time, the second one to finish uses the work of the first. An older phantom in ``root`` is replaced.

    Args:
        root: folder that is made, with images/, masks/, datalist.json and phantom.json.
        seed: another seed gives other patients.
        patients: number of patients, 15 or more; each has 2 to 4 images.

    Raises:
        ValueError: when there are too few patients to fill the three splits.
        FileExistsError: when ``root`` holds files that are not a phantom's, or were changed since it was made.
    """
    if patients < MIN_PATIENTS:
        raise ValueError(
            f"patients must be at least {MIN_PATIENTS}, so that each split has each class and organ, got {patients}; "
            "raise it."
        )
    stamp = {"seed": seed, "patients": patients, "version": VERSION}
    _refuse_foreign(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
        made = Path(temporary, "made")
        folder = OutputFolder(made)
        manifest = _write_items(folder, seed=seed, patients=patients)
        folder.write("datalist.json", (json.dumps(manifest, indent=1) + "\n").encode())
        folder.write(STAMP, (json.dumps(stamp) + "\n").encode())
        _publish(made, root, stamp=stamp, trash=Path(temporary, "former"))
    return root / "datalist.json"


def _stamp(root: Path) -> Any:
    """What the phantom in ``root`` was made with; None when there is none, or none with a manifest."""
    try:
        if not (root / "datalist.json").is_file():
            return None
        return json.loads((root / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _refuse_foreign(root: Path) -> None:
    """Refuse a folder that holds other files than a phantom's, or changed ones: it is replaced as a whole."""
    if root.exists() and not (root / STAMP).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(
            f"{root}: expected no folder, an empty one or a phantom ({STAMP}), got other files; move them, or name "
            "another folder."
        )
    if (root / STAMP).is_file():
        folder = OutputFolder(root, option="folder")
        if not (root / LEDGER).exists():
            _list_former(folder)
        files = (Path(path, file).relative_to(root) for path, _, names in os.walk(root) for file in names)
        folder.check(file for file in files if file.name != LEDGER)


def _list_former(folder: OutputFolder) -> None:
    """List the files of a phantom that an earlier version made, which kept no list."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        items = json.loads((folder.folder / "datalist.json").read_text(encoding="utf-8"))["items"]
        for name in ("datalist.json", STAMP, *(item[key] for item in items for key in ("image", "label"))):
            folder.adopt(name)


def _publish(made: Path, root: Path, *, stamp: dict[str, int], trash: Path) -> None:
    """Rename ``made`` to ``root``, unless another process has put the same phantom there meanwhile."""
    for attempt in range(10):
        if _stamp(root) == stamp:
            return
        try:
            if (root / STAMP).is_file():
                os.replace(root, f"{trash}{attempt}")
            os.replace(made, root)
            return
        except OSError:  # another process was faster with one of the two renames: look again
            continue
    raise FileExistsError(
        f"{root}: expected to put the phantom there, got a folder that other processes keep changing; try again."
    )


def _write_items(folder: OutputFolder, *, seed: int, patients: int) -> dict[str, Any]:
    plan = list(_plan(patients))
    items = []
    for kind, index, variant, split in tqdm(plan, desc="Synthesizing the phantom", unit="patient"):
        patient = f"{kind.name}/{index:03d}"
        for view in range(int(_patient_rng(seed, kind, index).integers(*VIEWS))):
            name = f"{kind.entry['position']}_{index:03d}_{view}.png"
            image, mask, spacing, points = _picture(seed=seed, kind=kind, index=index, view=view, variant=variant)
            for kind_of_file, pixels in (("images", image), ("masks", mask)):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "png")
                folder.write(f"{kind_of_file}/{name}", file.getvalue())
            item = {"image": f"images/{name}", "label": f"masks/{name}", "dataset": kind.name, "patient": patient}
            item |= {"group": patient, "split": split, "spacing": [spacing, spacing], "points": points}
            if "classes" in kind.entry:
                item["class"] = variant
            items.append(item)
    source = f"bundle.data.phantom, generator {VERSION}, seed {seed}, {patients} patients"
    terms = {"license": "made by this project, Apache-2.0", "source": source}
    return {
        "version": 1,
        "root": ".",
        "datasets": {kind.name: {**kind.entry, **terms} for kind in KINDS},
        "split": {"seed": seed, "fractions": FRACTIONS, "folds": None, "given": False, "near_duplicates": 0}
        | {"leaks": [], "leaks_accepted": False},
        "items": items,
    }


def _plan(patients: int) -> Iterator[tuple[_Kind, int, str, str]]:
    """All patients: kind, number within the kind, variant, split. Each class has its share in each split."""
    counts = [max(3, int(kind.share * patients)) for kind in KINDS]
    counts[0] = patients - sum(counts[1:])
    for kind, count in zip(KINDS, counts, strict=True):
        classes = kind.variants if "classes" in kind.entry else ("",)
        for index in range(count):
            stratum, rank = index % len(classes), index // len(classes)
            size = (count - stratum + len(classes) - 1) // len(classes)
            held = max(1, round(FRACTIONS["test"] * size))
            split = "test" if rank >= size - held else "val" if rank >= size - 2 * held else "train"
            yield kind, index, kind.variants[index % len(kind.variants)], split


def _patient_rng(seed: int, kind: _Kind, index: int) -> np.random.Generator:
    return np.random.default_rng((seed, KINDS.index(kind), index))


def _picture(
    *, seed: int, kind: _Kind, index: int, view: int, variant: str
) -> tuple[Bytes, Bytes, float, dict[str, list[float] | None]]:
    """One image, its mask, its pixel spacing in mm and its points. All views of a patient draw one body and probe."""
    body = _patient_rng(seed, kind, index)
    chance = np.random.default_rng((seed, KINDS.index(kind), index, view + 1))
    probe = Probe.draw(body, sector=body.random() < kind.sector, depth_mm=kind.depth_mm)
    grid: Grid = probe.grid()
    grey, mask = probe.scan(kind.organ(grid, body, chance, variant=variant), chance)
    image = np.round(grey * 255).astype(np.uint8)
    marked, calipers = burn_in(image, mask=mask, spacing=probe.spacing, view=chance)
    points: dict[str, list[float] | None] = dict.fromkeys(CALIPERS)
    points |= {name: [float(y), float(x)] for name, (x, y) in zip(CALIPERS, calipers, strict=False)}
    if kind.entry["position"] == "head":
        points |= axis_ends(mask)
    return marked, mask, probe.spacing, points
