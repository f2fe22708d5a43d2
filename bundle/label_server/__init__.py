# SPDX-License-Identifier: Apache-2.0
"""The stock MONAI Label server behind a door: loopback, confined paths, closed origins, no files left."""

from bundle.label_server.checks import check_listed
from bundle.label_server.folders import app_folder, private_folder
from bundle.label_server.process import Address, bound_socket, installed_label, serve
from bundle.label_server.studies import study_links_out, unserved

__all__ = [
    "Address",
    "app_folder",
    "bound_socket",
    "check_listed",
    "installed_label",
    "private_folder",
    "serve",
    "study_links_out",
    "unserved",
]
