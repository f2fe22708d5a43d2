# SPDX-License-Identifier: Apache-2.0
"""Instances of a DICOMweb server (QIDO-RS and WADO-RS, PS3.18) as files of a private folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundle.dicomweb.address import is_address

if TYPE_CHECKING:
    from bundle.dicomweb.retrieval import Retrieved

__all__ = ["is_address", "retrieve"]


def retrieve(address: str) -> Retrieved:
    """See :func:`bundle.dicomweb.retrieval.retrieve`.

    Raises:
        ImportError: when dicomweb-client is not installed.
    """
    try:
        from bundle.dicomweb import retrieval
    except ImportError as error:
        raise ImportError(f'{address}: DICOMweb needs pip install -e ".[dicom]" ({error}).') from error
    return retrieval.retrieve(address)
