# SPDX-License-Identifier: Apache-2.0
# All checks in one command; .ci/run calls the same. Tests of one file run in one process, WORKERS files at once.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE pytest -n $(WORKERS) --dist loadfile

.PHONY: check slow
check:
	ruff check .
	ruff format --check .
	mypy
	$(PYTEST)
slow:
	$(PYTEST) -m slow
