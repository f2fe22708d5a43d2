# SPDX-License-Identifier: Apache-2.0
# All checks in one command; .ci/run calls the same.
.PHONY: check
check:
	ruff check .
	ruff format --check .
	mypy
	pytest
