# SPDX-License-Identifier: Apache-2.0
"""Parts of the ultrasound bundle: networks, data, transforms, losses, metrics, engines and sinks."""

__version__ = "0.13.0"
