# SPDX-License-Identifier: Apache-2.0
from bundle.networks.uperconvnext import UPerConvNeXt

__all__ = ["UPerConvNeXt"]
