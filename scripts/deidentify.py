# SPDX-License-Identifier: Apache-2.0
"""Images without what a patient could be known by: headers by DICOM's Basic Profile, text in the pixels made black.

  pip install -e ".[dicom,live,text]"
  python scripts/deidentify.py ARCHIVE --output_dir clean

DICOM files (single and multi-frame) keep their pixels, sizes, regions and times between frames; names, numbers, dates,
comments, private elements and UIDs go, on every level, and whatever else holds a word of the names. Pictures (PNG,
JPEG, TIFF, BMP ...) become PNG files of 8 bits without metadata. New files are called 00001.dcm, 00002.png, ... in the
order of the old ones. clean/deidentified.csv lists what went, without values.

Equal UIDs stay equal within a run; --salt FILE, a secret of your own, keeps them equal over several runs. --mapping
FILE writes which file became which: keep it apart. Files that fail are named and not written; the status is 1 then.
Videos and DICOM objects that are no images are passed over.

Look at the results before you pass them on: a detector of text misses some, and a face or a tattoo is none. In clips,
text is looked for in 12 frames and made black in all.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.failures import failed, one_line  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.identity.folder import REPORT, deidentify_folder, mapping  # noqa: E402
from bundle.transforms.seeing.text import TextFinder  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder in any depth, or a file")
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="folder of the new files")
    parser.add_argument("--keep_text", action="store_true", help="leave the pixels as they are; the header says so")
    parser.add_argument("--salt", type=Path, metavar="FILE", help="secret of 16 bytes or more that new UIDs come from")
    parser.add_argument("--mapping", type=Path, metavar="FILE.csv", help="writes which file became which")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _run(args)
    except Exception as error:
        return failed(error, status=2)


def _run(args: argparse.Namespace) -> int:
    salt = secrets.token_bytes(32) if args.salt is None else args.salt.read_bytes()
    if len(salt) < 16:
        raise ValueError(f"{args.salt}: 16 bytes or more expected, got {len(salt)}; make some with a random generator.")
    if args.mapping is not None:
        if args.mapping.resolve().is_relative_to(args.output_dir.resolve()):
            raise ValueError(f"--mapping {args.mapping}: a place outside of {args.output_dir} expected; keep it apart.")
        listed = OutputFolder(args.mapping.parent, option="--mapping")
        listed.check([args.mapping.name])
    finder = None if args.keep_text else TextFinder()
    outcome = deidentify_folder(args.source, args.output_dir, finder=finder, salt=salt)
    for path, why in outcome.failed.items():
        print(one_line(f"{path}: not written: {why}"), file=sys.stderr)
    done = ", ".join(f"{count} {action}" for action, count in outcome.actions.most_common())
    print(f"{len(outcome.written)} files in {args.output_dir}; elements: {done or 'none changed'}; see {REPORT}")
    if args.mapping is not None:
        print(f"written: {listed.write(args.mapping.name, mapping(outcome))}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
