# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as TorchScript, ONNX and OpenVINO files that compute what the network computes."""

from bundle.export.job import PAIRS, PRECISIONS, Export, Exporter, planned, write_summary
from bundle.export.source import Source, load_source

__all__ = ["PAIRS", "PRECISIONS", "Export", "Exporter", "Source", "load_source", "planned", "write_summary"]
