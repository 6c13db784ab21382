# The newest Python that is installed and for which TensorFlow exists.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
RUN = .venv/bin/python

.PHONY: train demo test test-slow bench lint docs package clean

train: .venv/installed
	$(RUN) train.py --config=configs/quickstart.py

demo: .venv/installed-demo
	$(RUN) -m eddsrn_jax demo $(FLAGS)

test: .venv/installed-dev
	$(RUN) -m pytest -n 2 --dist loadfile

test-slow: .venv/installed-dev
	$(RUN) -m pytest -m slow

bench: .venv/installed-bench
	$(RUN) -m benchmarks $(FLAGS)

lint: .venv/installed-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m basedpyright

docs: .venv/installed-docs
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	$(RUN) -m pytest -m docs tests/docs
	@echo "the site is in build/docs/index.html"

package: .venv/installed-dev
	.ci/package

clean:
	rm -rf .venv build dist

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 (with venv) is needed" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check

.venv/installed: requirements.txt requirements/restore.txt requirements/train.txt \
		| .venv/bin/python
	$(INSTALL) -r requirements.txt
	@touch $@

.venv/installed-demo: requirements/demo.txt .venv/installed
	$(INSTALL) -r requirements.txt -r requirements/demo.txt
	@touch $@

.venv/installed-bench: requirements/bench.txt .venv/installed
	$(INSTALL) -r requirements.txt -r requirements/bench.txt
	@touch $@

.venv/installed-dev: requirements/dev.txt .venv/installed-demo
	$(INSTALL) -r requirements.txt -r requirements/demo.txt -r requirements/dev.txt
	@touch $@

.venv/installed-docs: requirements/docs.txt .venv/installed-dev
	$(INSTALL) -r requirements.txt -r requirements/docs.txt
	@touch $@
