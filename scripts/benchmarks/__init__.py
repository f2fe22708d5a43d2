# SPDX-License-Identifier: Apache-2.0
"""What scripts/benchmark.py measures, one module per part."""
