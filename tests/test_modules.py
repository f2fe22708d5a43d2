# SPDX-License-Identifier: Apache-2.0
"""Names in a config lead to one thing, whatever the version of Python."""

import importlib
import pkgutil
from types import ModuleType

import bundle


def test_no_module_shares_its_full_name_with_a_function() -> None:
    """``pydoc.locate``, which finds ``_target_``, gives the function up to Python 3.11 and the module from 3.12 on."""
    names = [module.name for module in pkgutil.walk_packages(bundle.__path__, "bundle.")]
    shadowed = []
    for name in names:
        package, _, last = name.rpartition(".")
        importlib.import_module(name)
        if not isinstance(getattr(importlib.import_module(package), last), ModuleType):
            shadowed.append(name)
    assert len(names) > 50
    assert not shadowed
