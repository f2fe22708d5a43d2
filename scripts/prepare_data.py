# SPDX-License-Identifier: Apache-2.0
"""Make the manifest (datalist.json) of a data folder: no image is copied."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.data.assemble import Assembly, assemble, write_datalist
from bundle.data.clip_sets import check_clip_tables, read_clip_table
from bundle.data.known_sets import NO_SET, LeftOut
from bundle.data.manifest import is_manifest
from bundle.data.other_organs import other_organs
from bundle.data.points import add_axes, add_points, read_points
from bundle.data.public_sets import KNOWN, PublicSet, read_busi, read_folders, read_hc18
from bundle.data.split_table import split_table
from bundle.data.splits import FRACTIONS
from bundle.data.strangers import make_strangers
from bundle.data.summary import summary_table
from bundle.data.told import told_fractions, told_options
from bundle.failures import named, one_line
from bundle.files import OutputFolder
from bundle.live.sources import spread_frames

EPILOG = f"""\
examples:
  python scripts/prepare_data.py --busi Dataset_BUSI_with_GT --output data/busi/datalist.json
  python scripts/prepare_data.py --busi BUSI --folders ROOT --hc18 HC18 --output data/real/datalist.json --folds 5
  python scripts/prepare_data.py --folders ROOT/segmentation/MYSET --position MYSET=thyroid --nature MYSET=tumor \\
      --structure MYSET=255:nodule --patient-regex 'MYSET=(\\d+)_' --output data/myset/datalist.json

--folders reads ROOT/segmentation/SET/{{imgs,masks}} and ROOT/classification/SET/LABEL/*, or one such SET; images/,
gt/ and labels/ too, and masks beside their images (x_mask.png, x_lesion.png, x_gt.png).
Known by name: {", ".join(sorted(KNOWN))}.
Of others, say --position, --nature and, where config.yaml does not, --structure or --classes.

exit status:
  0  the manifest is written
  1  it is written without files that were left out, each named or counted with the reason (0 with
     --skip-unreadable), or
     without a set of which options are missing: the last line says which and the options to add, or
     it is not written because the given splits leak (0 and written with --accept-leaks)
  2  an error
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (OSError, ValueError) as error:
        print("error: " + "\n".join(map(one_line, str(error).splitlines())), file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    output = Path(options.output)
    _check_output(output, overwrite=options.overwrite)
    assembly = assemble(
        _read(options),
        folder=output.parent,
        fractions=told_fractions(options.fractions),
        seed=options.seed,
        folds=options.folds,
        given=options.given_splits,
        leaks_accepted=options.accept_leaks,
        workers=options.workers,
    )
    _add_points(assembly.manifest, output.parent, options)
    print(summary_table(assembly), split_table(assembly.manifest["items"]), sep="\n\n", end="\n\n")
    for notice in assembly.notices:
        print(one_line(f"note: {notice}"))
    waiting = [entry for entry in assembly.left_out if entry.whole]
    for entry in assembly.left_out:
        if not entry.whole:
            print(one_line(f"left out: {entry.reason}"), file=sys.stderr)
    if not assembly.manifest["items"]:
        told = "expected images, got none that can be used; correct the paths, or what is said above."
        raise ValueError("\n".join(one_line(entry.reason) for entry in waiting) or told)
    status = _write(assembly, output, options)
    if waiting:
        print(_more_words(waiting), file=sys.stderr)
    return 1 if waiting else status


def _add_points(manifest: dict[str, Any], folder: Path, options: argparse.Namespace) -> None:
    """Points of --axes and --points for the items of a manifest."""
    root = os.path.normpath(os.path.join(os.path.realpath(folder), manifest.get("root", ".")))
    for structure in options.axes:
        count = add_axes(manifest, structure, root=root)
        print(f"note: {count} images have the ends of the axes of {structure!r} as points")
    for path in options.points:
        add_points(manifest["items"], read_points(path), root=root, path=path)


def _write(assembly: Assembly, output: Path, options: argparse.Namespace) -> int:
    """Write the manifest unless it leaks; returns the exit status."""
    leaks = assembly.manifest["split"]["leaks"]
    if leaks:
        _print_leaks(assembly, accepted=options.accept_leaks)
        if not options.accept_leaks:
            return 1
    if options.overwrite:
        OutputFolder(output.parent).adopt(output.name)
    write_datalist(assembly.manifest, output)
    print(one_line(f"{output}: {len(assembly.manifest['items'])} items"))
    count = sum(entry.count for entry in assembly.left_out if not entry.whole)
    if count and not options.skip_unreadable:
        print(
            f"error: {count} files were left out of the manifest (listed above); repair them, or accept that with "
            "--skip-unreadable.",
            file=sys.stderr,
        )
        return 1
    return 0


def _more_words(waiting: Sequence[LeftOut]) -> str:
    """The sets that are left out as a whole, and all that the user has to say of them, in one line."""
    sets = named([f"the set {entry.dataset} ({entry.count} images)" for entry in waiting], at_most=len(waiting))
    told = " ".join(entry.reason for entry in waiting)
    return one_line(f"error: left out until you say more of it: {sets}. {told}")


def _read(options: argparse.Namespace) -> list[PublicSet]:
    told = told_options(vars(options))
    check_clip_tables(options.clips)
    reads: list[Callable[[], PublicSet]] = [
        *(partial(read_busi, folder, options=told) for folder in options.busi),
        *(partial(read_folders, folder, options=told, given_splits=options.given_splits) for folder in options.folders),
        *(partial(read_hc18, folder, options=told) for folder in options.hc18),
    ]
    for table in options.clips:
        folder = Path(options.output).parent / "clips" / Path(table).stem
        count = options.clip_frames
        reads.append(partial(read_clip_table, table, folder, options=told, frames=spread_frames, count=count))
    if options.no_organ:
        folder = Path(options.output).parent / "no_organ"
        reads.append(partial(make_strangers, folder, count=options.no_organ, seed=options.seed))
    if options.other_organs:
        folder = Path(options.output).parent / "other_organs"
        reads.append(partial(other_organs, options.other_organs, folder, frames=spread_frames))
    if not reads:
        raise ValueError("expected data, got none; add --busi, --folders or --hc18 with a folder, or --clips.")
    sets, faults = [], []
    for read in reads:
        try:
            sets.append(read())
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))
    left_out = [entry for found in sets for entry in found.left_out]
    names = {*(name for found in sets for name in found.datasets), *(entry.dataset for entry in left_out)} - {NO_SET}
    if strangers := told.mentioned() - names:
        fault = f"expected options about the data sets {sorted(names)}, got {sorted(strangers)}; correct the names"
        fault += " (an = in a name is written \\=)." if any("=" in name for name in names) else "."
        raise ValueError("\n".join([*(entry.reason for entry in left_out if entry.whole), fault]))
    return sets


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse before the long work what would fail after it."""
    if output.is_dir():
        raise ValueError(f"--output {output}: expected a file, got a folder; add the name, such as datalist.json.")
    if output.exists() and not overwrite:
        raise ValueError(f"--output {output}: expected a new file, got one that exists; add --overwrite to replace it.")
    if output.exists() and not is_manifest(output):
        raise ValueError(
            f"--output {output}: expected a new file or, with --overwrite, a manifest to replace, got another file;"
            " choose another name."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise ValueError(
            f"--output {output}: expected a folder that can be written, got {output.parent}; choose another."
        )


def _print_leaks(assembly: Assembly, *, accepted: bool) -> None:
    leaks = assembly.manifest["split"]["leaks"]
    for first, second, reason in leaks:
        print(f"leak: {first} | {second} | {reason}", file=sys.stderr)
    print(
        f"{'warning' if accepted else 'error'}: expected given splits that share no patient and no near-duplicate, got "
        f"{len(leaks)} leaking pairs (listed above); "
        + (
            "the manifest records them, and training refuses it unless told otherwise in so many words."
            if accepted
            else "nothing is written. Leave out --given-splits for a split by patient, or add --accept-leaks to have "
            "the manifest written with the leaks recorded."
        ),
        file=sys.stderr,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_data.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_argument_group("data (each may be repeated; all go into one manifest)")
    data.add_argument("--busi", action="append", default=[], metavar="DIR", help="the public release of BUSI")
    data.add_argument("--folders", action="append", default=[], metavar="DIR", help="sets in folders")
    data.add_argument("--hc18", action="append", default=[], metavar="DIR", help="the public release of HC18")
    data.add_argument("--clips", action="append", default=[], metavar="SET.csv", help="clips: file, class, patient")
    frames = _whole(1, "frames", "1 takes the first")
    data.add_argument("--clip-frames", type=frames, default=12, metavar="N", help="of a clip (default %(default)s)")
    out = parser.add_argument_group("output")
    out.add_argument("--output", required=True, metavar="FILE", help="the manifest, such as data/real/datalist.json")
    out.add_argument("--overwrite", action="store_true", help="replace the manifest if it exists (never another file)")
    out.add_argument("--skip-unreadable", action="store_true", help="exit with 0 though files had to be left out")
    processes = _whole(1, "processes", "1 reads in this process")
    data.add_argument(
        "--workers", type=processes, default=1, metavar="N", help="processes that read images (default %(default)s)"
    )
    data.add_argument(
        "--no-organ",
        type=_whole(0, "images", "0 makes none"),
        default=0,
        metavar="N",
        help="make N images of no organ beside the manifest, to learn from",
    )
    data.add_argument(
        "--other-organs",
        action="extend",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, DICOM files, clips or folders of them that show another organ or a phantom",
    )
    _add_split(parser)
    _add_told(parser)
    return parser


def _add_split(parser: argparse.ArgumentParser) -> None:
    split = parser.add_argument_group("split (by patient; near-duplicates stay together)")
    split.add_argument("--seed", type=int, default=0, help="another seed gives another split (default %(default)s)")
    split.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        default=list(FRACTIONS.values()),
        metavar=("TRAIN", "VAL", "TEST"),
        help=f"shares of the images (default {' '.join(map(str, FRACTIONS.values()))})",
    )
    split.add_argument(
        "--folds",
        type=_whole(2, "folds", "leave --folds out for none"),
        metavar="K",
        help="add K folds over all but the test split",
    )
    split.add_argument(
        "--given-splits", action="store_true", help="keep to train.txt, val.txt and test.txt of --folders"
    )
    split.add_argument("--accept-leaks", action="store_true", help="write the manifest though the given splits leak")


def _add_told(parser: argparse.ArgumentParser) -> None:
    about = parser.add_argument_group("what the files do not say (each may be repeated)")
    for flag, metavar, text in (
        ("--position", "SET=NAME", "organ or body part, such as MYSET=thyroid"),
        ("--nature", "SET=NAME", "tumor, organ or unknown"),
        ("--structure", "SET=VALUE:NAME", "structure of a value in the masks, such as MYSET=255:nodule"),
        ("--mask-threshold", "SET=VALUE", "where masks are blurred (JPEG): this value and all above are the structure"),
        ("--label-set", "SET=NAME", "label set of the classes (default: the position)"),
        ("--classes", "SET=A,B,...", "names of the classes in the order of the numbered folders"),
        ("--axes", "NAME", "the ends of the axes of a structure's ellipse become points, such as head"),
        ("--points", "FILE", "CSV of points: image, point, row, column (docs/data.md)"),
        ("--patient-regex", "SET=REGEX", "start of an image's name; its first group is the patient or video"),
    ):
        about.add_argument(flag, action="append", default=[], metavar=metavar, help=text)


def _whole(least: int, what: str, hint: str) -> Callable[[str], int]:
    """A whole number from ``least`` on, for argparse."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more {what}, got {value}; {hint}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
