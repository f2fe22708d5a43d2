# SPDX-License-Identifier: Apache-2.0
"""Serves this bundle to 3D Slicer, CVAT and plain clients: the stock MONAI Label server, for this machine only.

Makes the app folder, links the bundle under the names of its two models, and starts the server. Requests reach only
the images in the studies folder, no web page of another site is answered, and temporary files go when it ends (Ctrl-C).
Training from a client changes models/model.pt of this folder. Needs an environment with MONAI Label.
"""

from __future__ import annotations

import argparse
import functools
import ipaddress
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.failures import failed
from bundle.files import writable_folder
from bundle.label_server import (
    Address,
    app_folder,
    bound_socket,
    check_listed,
    installed_label,
    private_folder,
    serve,
    study_links_out,
    unserved,
)

ROOT = Path(__file__).resolve().parents[1]

EPILOG = """\
example:
  ../label-env/bin/python scripts/label_server.py --studies ../studies
"""


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be 0 (any free one) to 65535, got {text!r}")
    return int(text)


def _host(text: str) -> str:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an IPv4 address, got {text!r}") from None
    if address.is_unspecified:
        raise argparse.ArgumentTypeError("must be one address of this machine, got 0.0.0.0, which is all of them")
    return str(address)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=Path, required=True, help="folder of .png, .jpg, .tif, .nii.gz, .nrrd images")
    parser.add_argument("--app", type=Path, help="folder to keep MONAI Label's app and logs in (default: removed)")
    parser.add_argument("--port", type=_port, default=8000, help="0: any free one (default: %(default)s)")
    parser.add_argument(
        "--host",
        type=_host,
        default="127.0.0.1",
        help="address to listen on. There is no password: with another than the default, such as the one that CVAT's"
        " containers reach, all who reach it can read and change the studies (default: %(default)s)",
    )
    return parser


def _announce(address: Address, studies: Path) -> None:
    print(
        f"\nMONAI Label serves {studies} at {address.url}\n"
        f"  3D Slicer  module MONAI Label, server {address.url}\n"
        f"  CVAT       MONAI_LABEL_SERVER={address.url} (--host: an address that its containers reach)\n"
        "  OHIF       shows no single ultrasound frames: docs/monai_label.md\n"
        f"  requests   {address.url} in a browser, or curl as in docs/monai_label.md\n"
        "Ctrl-C stops it and removes its temporary files.\n",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is stopped: 0 then, 1 when it cannot start."""
    options = _parser().parse_args(arguments)
    studies, name = options.studies.resolve(), json.loads((ROOT / "configs/metadata.json").read_text())["name"]
    try:
        installed_label(ROOT / "requirements-label.txt")
        if not (weights := ROOT / "models/model.pt").is_file():
            raise FileNotFoundError(
                f"{weights} must be the weights to serve, got no such file; copy weights there, or train some:"
                " python -m monai.bundle run training --config_file configs/train.yaml"
            )
        if not studies.is_dir():
            raise NotADirectoryError(f"{options.studies} must be a folder of images (--studies), got no folder.")
        writable_folder(str(studies), options="--studies")  # for labels
        check_listed(studies / "datastore_v2.json")
        links = (
            f"{link} leads out of the studies and is not served; replace it by a copy"
            for link in study_links_out(studies)
        )
        for line in (*links, *unserved(studies)):
            print(f"warning: {line}", file=sys.stderr)
        listener, address = bound_socket(Address(options.host, options.port))
        with private_folder() as private:
            folder = (options.app or private / "app").resolve()
            started = serve(
                lambda sample: app_folder(folder, sample=sample, bundle=ROOT, name=name),
                studies=studies,
                private=private,
                name=name,
                listener=listener,
                address=address,
                ready=functools.partial(_announce, address, studies),
            )
        if not started:
            raise OSError("MONAI Label did not start; the reason stands above, in its log.")
    except Exception as error:
        return failed(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
