# SPDX-License-Identifier: Apache-2.0
"""Parts of the ultrasound bundle: networks, data, transforms, losses, metrics, engines and writers."""

__version__ = "0.6.2"
