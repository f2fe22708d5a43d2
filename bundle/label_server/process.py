# SPDX-License-Identifier: Apache-2.0
"""Starts the stock MONAI Label server in this process, behind the door, and ends it with all that it started."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.label_server.checks import SUFFIXES
from bundle.label_server.door import Door
from bundle.label_server.studies import guard_labels, guard_scoring, guard_store

LABEL_VERSION = "0.8.5"  # whose requests the door knows
SHUTDOWN = 5  # seconds that open connections get at the end


@dataclass(frozen=True)
class Address:
    """Where the server listens.

    Attributes:
        host: IPv4 address.
        port: 0 for any free one.
    """

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def url(self) -> str:
        """What clients are given."""
        return f"http://{self.host}:{self.port}"


def installed_label(requirements: Path) -> None:
    """Refuses a Python without the MONAI Label that the door was made for.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    try:
        found = importlib.metadata.version("monailabel")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != LABEL_VERSION:
        raise ModuleNotFoundError(
            f"MONAI Label {LABEL_VERSION} must be installed in this Python, got {found}. Install it into an environment"
            f" of its own: python -m venv ../label-env && ../label-env/bin/pip install -r {requirements}; then start"
            " this script with ../label-env/bin/python."
        )


def bound_socket(address: Address) -> tuple[socket.socket, Address]:
    """A socket with the port, which nobody can connect to before the server runs, and its address with the number.

    Raises:
        OSError: when the port is taken or not allowed.
    """
    listener = socket.socket()
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
    except OSError as e:
        listener.close()
        raise OSError(
            f"port {address.port} of {address.host} must be free, got: {e.strerror}; stop the program that uses it or"
            " choose another --port."
        ) from e
    return listener, Address(address.host, listener.getsockname()[1])


def serve(
    app: Callable[[Path], Path],
    *,
    studies: Path,
    private: Path,
    name: str,
    listener: socket.socket,
    address: Address,
    ready: Callable[[], None],
) -> bool:
    """Serves until SIGINT, SIGTERM or SIGHUP; ends all processes that the server started.

    Args:
        app: makes the app folder from the folder of MONAI Label's sample app.
        studies: folder of the images, a path without links.
        private: folder for temporary files and sessions; it becomes the working folder.
        name: of the model without clicks.
        listener: from ``bound_socket``.
        address: of that.
        ready: called when requests are answered.

    Returns:
        Whether the server started.
    """
    for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        signal.signal(number, signal.default_int_handler)
    _environment(private)
    try:
        log = _settings(app, studies=studies, name=name, address=address)
        server = _server(_door(studies, private=private, address=address), log=log, ready=ready)
        server.run(sockets=[listener])
        return bool(server.started)
    except KeyboardInterrupt:
        return True
    except SystemExit:  # of uvicorn, which has told why
        return False
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        listener.close()
        _end_tasks()


def _environment(private: Path) -> None:
    """Sets what MONAI Label reads when it is imported: places for its files."""
    for folder in ("requests", "tasks", "sessions", "empty"):
        (private / folder).mkdir()
    os.chdir(private / "empty")  # names in requests are tried as paths from here
    tempfile.tempdir = None
    os.environ.pop("MONAI_LABEL_CORS_ORIGINS", None)  # MONAI Label does not start with it; the door closes origins
    os.environ |= {
        "TMPDIR": str(private / "tasks"),  # of trainings, batches, scoring, and the start
        "MONAI_LABEL_SESSION_PATH": str(private / "sessions"),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{suffix}" for suffix in SUFFIXES]),
        "MONAI_LABEL_AUTH_ENABLE": "false",
        "MONAI_LABEL_API_STR": "",
        "MONAI_LABEL_TRACKING_URI": "",
    }


def _settings(app: Callable[[Path], Path], *, studies: Path, name: str, address: Address) -> Any:
    """Sets what MONAI Label reads when it starts; gives the settings of its log."""
    from monailabel.main import Main
    from monailabel.utils.others.generic import init_log_config

    label = Main()
    folder = app(Path(label._get_installed_dir("", "sample-apps")) / "monaibundle")
    words = ["start_server", "--app", str(folder), "--studies", str(studies), "--port", str(address.port)]
    conf = {"models": f"{name},{name}_deepedit", "epistemic_model": name, "zoo_source": "local", "sam2": "false"}
    for key, value in conf.items():
        words += ["--conf", key, value]
    options = label.args_parser().parse_args([*words, "--host", address.host])
    label.start_server_validate_args(options)
    label.start_server_init_settings(options)
    return init_log_config(None, options.app, "app.log", options.verbose)


def _door(studies: Path, *, private: Path, address: Address) -> Door:
    """The door with MONAI Label's app behind it, which reads its settings when it is imported."""
    from monailabel.app import app as stock
    from monailabel.datastore.local import LocalDatastore
    from monailabel.interfaces.app import MONAILabelApp
    from monailabel.interfaces.utils.app import app_instance
    from monailabel.utils.others.generic import device_map

    guard_labels(LocalDatastore)
    guard_store(LocalDatastore)
    guard_scoring(MONAILabelApp, studies)

    @functools.cache
    def known() -> Mapping[str, Collection[str]]:
        found: Mapping[str, Collection[str]] = app_instance().info()
        return {**found, "devices": ["cpu", "cuda", *device_map()]}

    return Door(
        stock,
        studies=studies,
        temporary=private / "requests",
        hosts=("127.0.0.1", "localhost", address.host),
        known=known,
        image_path=lambda image: str(app_instance().datastore().get_image_uri(image)),
    )


def _server(door: Door, *, log: Any, ready: Callable[[], None]) -> Any:
    """A uvicorn server of the door."""
    import uvicorn

    tempfile.tempdir = str(door.temporary)  # from here on only requests make temporary files in this process

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                ready()

    return Server(uvicorn.Config(door, log_config=log, access_log=False, ws="none", timeout_graceful_shutdown=SHUTDOWN))


def _end_tasks() -> None:
    """Ends trainings, batches and scoring, and those that wait."""
    import psutil

    try:
        from monailabel.utils.async_tasks.utils import background_executors
    except ImportError:  # the start was interrupted before there were any
        return
    for executor in background_executors.values():
        executor.shutdown(wait=False, cancel_futures=True)
    for process in psutil.Process().children(recursive=True):
        process.kill()
