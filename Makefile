# make demo    convert, compile and run ResNet-50 on a photograph
# make test    everything CI runs
# make check   the fast part of it
# Each sets up .venv by itself; PYTHON=python3.12 picks the interpreter.

PYTHON ?= python3
READY := .venv/.installed

.PHONY: demo test check clean

demo: $(READY)
	scripts/demo

test: $(READY)
	scripts/test

check: $(READY)
	scripts/check

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --editable '.[test,demo,cuda12,dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
