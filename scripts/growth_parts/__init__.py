# SPDX-License-Identifier: Apache-2.0
"""What scripts/growth.py measures."""
