# SPDX-License-Identifier: Apache-2.0
"""The stock MONAI Label server behind a door: loopback, confined paths, closed origins, no files left."""

from bundle.label_server.folders import app_folder, links_out, private_folder
from bundle.label_server.serve import Address, installed_label, listening_socket, serve

__all__ = ["Address", "app_folder", "installed_label", "links_out", "listening_socket", "private_folder", "serve"]
