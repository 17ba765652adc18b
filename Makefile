# `make study` and `make test` need Python 3.11 or newer, make and pip, and a package registry; nothing else.

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= default
OUTPUT ?=
PIP = $(VENV)/bin/python -m pip install --quiet --quiet
INSTALLED = $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help study tiny verify test faults teaching slides lint fix publish book booktest venv lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

study: venv  ## run all notebooks (PROFILE=default, OUTPUT=folder to leave the checkout as it is)
	@$(VENV)/bin/ccq run --profile "$(PROFILE)" $(if $(OUTPUT),--output "$(OUTPUT)")

tiny: venv  ## run all notebooks on a few documents, into build/smoke
	@$(VENV)/bin/ccq run --profile tiny --output build/smoke

verify: venv  ## hold a finished run (OUTPUT=folder), or without OUTPUT a new one, against the committed tables and claims
	@$(VENV)/bin/ccq verify --profile "$(PROFILE)" $(if $(OUTPUT),--run "$(OUTPUT)")

test: venv  ## run the test suite
	@$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

faults: venv  ## try every fault and count in data/reliability.csv what came out (half an hour; SAMPLE=1: a few of each, no table)
	@$(VENV)/bin/python tests/faults $(if $(SAMPLE),--sample)

teaching: venv  ## run the lecture and all solutions as a reader does, each in a kernel of its own
	@$(VENV)/bin/python -m pytest -q -m teaching tests/test_teaching.py

slides: venv build/slides/reveal  ## the lecture as slides that open without a network: build/slides/lecture.slides.html
	@$(VENV)/bin/jupyter nbconvert --log-level ERROR --to slides --template slides --TemplateExporter.extra_template_basedirs=notebooks \
	  --SlidesExporter.reveal_url_prefix=reveal --SlidesExporter.reveal_theme=white --output-dir build/slides --output lecture notebooks/lecture.ipynb
	@echo "Open build/slides/lecture.slides.html in a browser; to take the slides elsewhere, copy build/slides/reveal with them."

build/slides/reveal: pyproject.toml
	@rm -rf build/slides && $(PIP) --no-deps --target build/slides/package "$$(sed -n 's/.*"\(sphinx-revealjs[^"]*\)".*/\1/p' pyproject.toml)" \
	  || { echo "make: slides need reveal.js once, from the package sphinx-revealjs; connect to a package registry" >&2; exit 1; }
	@mv build/slides/package/sphinx_revealjs/_static/revealjs $@ && rm -rf build/slides/package && touch $@

lint: venv  ## check code, notebooks, docstrings and formatting
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

fix: venv  ## repair what lint can repair
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

publish: venv build/book-venv/.installed  ## copy the notebooks of a finished default run, cleaned, over the committed ones
	@$(VENV)/bin/ccq publish
	@cd notebooks && ../build/book-venv/bin/python -m nbconvert --log-level ERROR --to notebook --inplace --execute \
	  --ExecutePreprocessor.record_timing=False explorer.ipynb

book: build/book-venv/.installed  ## make the book of the committed notebooks in build/book, with the explorer
	@build/book-venv/bin/python notebooks/book/build.py

booktest: book  ## make the book and look at it in headless Chromium or Chrome
	@build/book-venv/bin/python -m pytest -q -rs --noconftest tests/test_book.py

build/book-venv/.installed: notebooks/book/requirements.txt
	@$(PYTHON) -m venv build/book-venv
	@build/book-venv/bin/python -m pip install --quiet --quiet -r notebooks/book/requirements.txt
	@touch $@

venv: $(INSTALLED)  ## install the pinned packages (study and test do this)

$(INSTALLED): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "make: no $(PYTHON); install Python 3.11 or newer, or give PYTHON=path" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; give a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the pinned packages into $(VENV); this takes some minutes." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps --editable .
	@touch $@

lock:  ## resolve pyproject.toml anew and pin the result in requirements.lock
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --quiet --editable '.[dev]'
	@build/lock/bin/python -m pip check
	@sed -n '/^#/p' requirements.lock > build/lock/pinned
	@build/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/^\(torch==[^+]*\)+.*/\1/' >> build/lock/pinned
	@mv build/lock/pinned requirements.lock && rm -rf build/lock

clean:  ## remove build/ and data/cache; committed results stay
	@find build -name '.*.lock' -type f 2> /dev/null | while read -r lock; do \
	  $(VENV)/bin/python -c 'import filelock, sys; filelock.FileLock(sys.argv[1]).acquire(timeout=0)' "$$lock" 2> /dev/null \
	    || { echo "make: $$(cat "$$lock") is writing to build/; wait for it" >&2; exit 1; }; done
	@for use in data/cache/.run.*.partial; do process=$${use%.*.partial}; process=$${process##*.}; \
	  [ ! -d "$$use" ] || ! kill -0 "$$process" 2> /dev/null \
	    || { echo "make: process $$process runs notebooks with data/cache; wait for it" >&2; exit 1; }; done
	@rm -rf build data/cache
