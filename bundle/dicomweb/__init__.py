# SPDX-License-Identifier: Apache-2.0
"""Instances of a DICOMweb server (QIDO-RS and WADO-RS, PS3.18) as files of a private folder."""
