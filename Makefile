# Give one Jetson its identity:   make image SERIAL=AZJN-0042
# `make` alone lists what there is. Each target sets up all that it needs in .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

# Values come from outside (a barcode scanner, another Makefile): they are taken literally, reach
# the tool by its environment, and are never pasted into a shell line.
IMAGE_VARIABLES := SERIAL SERIALS BSP ROOTFS_DIR API_URL BOARD ROOTDEV CONFIG FLASH FUSE JSON OUT JOBS

# A misspelt FLAHS=0 must not flash. What another make hands on to this one is its own affair.
given = $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(if $(filter 0,$(MAKELEVEL)),$(filter-out $(IMAGE_VARIABLES) PYTHON VENV RUN,$(given)))
export UNKNOWN IMAGE_VARIABLES
define literally
ifneq ($$(origin $(1)),undefined)
override $(1) := $$(value $(1))
export $(1)
endif
endef
$(foreach name,$(IMAGE_VARIABLES),$(eval $(call literally,$(name))))
# Otherwise make would pass the same values on, expanded, to the processes it starts.
MAKEOVERRIDES :=
# -I: PYTHONPATH and PYTHONHOME of the caller (ROS sets one) are for the caller's own Python.
TOOL := $(RUN)/python -I $(RUN)/azaion-imagebuild

.PHONY: help image fleet test check docs deb clean
help:
	@echo "make image SERIAL=AZJN-0042    build, prove and flash one device's image"
	@echo "           BSP= ROOTFS_DIR= API_URL= BOARD= ROOTDEV= CONFIG= FLASH=0 JSON=1"
	@echo "           FUSE=1              run [fuse] command first: it cannot be undone"
	@echo "                               with neither BSP nor API_URL: in the sandbox"
	@echo "make fleet SERIALS=list.txt    the same for many devices: a list, a CSV, a range, or -"
	@echo "           OUT=folder JOBS=8   and all of the above"
	@echo "make test                      run the tests (two minutes)"
	@echo "make check                     what CI runs: lint, types, tests on every Python, docs"
	@echo "make docs                      make a site of the documentation in site/"
	@echo "make deb                       make a Debian package for this release in dist/"
	@echo "make clean                     remove what make has made here"

# Takes each variable that is set as a flag: an empty one too, so that the tool can refuse it.
flags = \
	set --; \
	[ -z "$${BSP+x}" ] || set -- "$$@" --bsp="$$BSP"; \
	[ -z "$${ROOTFS_DIR+x}" ] || set -- "$$@" --rootfs-dir="$$ROOTFS_DIR"; \
	[ -z "$${API_URL+x}" ] || set -- "$$@" --api-url="$$API_URL"; \
	[ -z "$${BOARD+x}" ] || set -- "$$@" --board="$$BOARD"; \
	[ -z "$${ROOTDEV+x}" ] || set -- "$$@" --rootdev="$$ROOTDEV"; \
	[ -z "$${CONFIG+x}" ] || set -- "$$@" --config="$$CONFIG"; \
	[ -z "$${FLASH+x}" ] || set -- "$$@" --flash="$$FLASH"; \
	[ -z "$${FUSE+x}" ] || set -- "$$@" --fuse="$$FUSE"; \
	json=$${JSON-no}; case "$${json,,}" in \
	    1|yes|true|on) set -- "$$@" --json ;; \
	    0|no|false|off) ;; \
	    *) printf 'error: JSON=%q is not yes or no (1, 0, true, false)\n' "$$JSON" >&2; \
	       echo "hint: JSON=1 prints one line of JSON on stdout" >&2; exit 2 ;; \
	esac

image: $(VENV)/.image | known e2fsprogs
	@$(flags); \
	[ -z "$${SERIAL+x}" ] || set -- "$$@" --serial="$$SERIAL"; \
	exec $(TOOL) image "$$@"

fleet: $(VENV)/.image | known e2fsprogs
	@$(flags); \
	[ -z "$${OUT+x}" ] || set -- "$$@" --out="$$OUT"; \
	[ -z "$${JOBS+x}" ] || set -- "$$@" --jobs="$$JOBS"; \
	exec $(TOOL) fleet "$$@" -- "$${SERIALS-}"

test: $(VENV)/.test | e2fsprogs
	@$(RUN)/pytest -n auto --dist worksteal -m "not thorough"

check: $(VENV)/.test | e2fsprogs
	@$(RUN)/ruff format --check .
	@$(RUN)/ruff check .
	@$(RUN)/mypy
	@$(RUN)/nox --session tests docs

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --quiet --strict
	@echo "open site/index.html in a browser"

deb: $(VENV)/.test
	@$(RUN)/python tools/make_deb.py

clean:
	@other=$$(find $(VENV) ! -user "$$(id -un)" -print -quit 2>/dev/null); \
	[ "$$(id -u)" = 0 ] || [ -z "$$other" ] || { \
	    echo "error: $(VENV) belongs to $$(stat -c %U "$$other")" >&2; \
	    echo "hint: sudo rm -rf $(CURDIR)/$(VENV), then run the same command again" >&2; exit 2; }
	@rm -rf $(VENV) .nox dist build site .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: known
known:
	@[ -z "$$UNKNOWN" ] || { \
	    echo "error: unknown: $$UNKNOWN" >&2; \
	    echo "hint: the variables of make are: $$IMAGE_VARIABLES" >&2; exit 2; }

.PHONY: e2fsprogs
e2fsprogs:
	@for tool in mke2fs debugfs e2fsck; do \
	    PATH="$$PATH:/usr/sbin:/sbin" command -v $$tool >/dev/null || { \
	        echo "error: $$tool is not installed" >&2; \
	        echo "hint: sudo apt-get install e2fsprogs" >&2; exit 2; }; \
	done

# A checkout that was moved needs a new environment, because it holds the old path.
MOVED := $(if $(filter $(CURDIR),$(file <$(VENV)/.where)),,moved)
.PHONY: moved

$(VENV)/.image: pyproject.toml $(MOVED)
	@bash tools/set-up.sh "$(PYTHON)" "$(VENV)" . image

$(VENV)/.test: pyproject.toml $(MOVED)
	@bash tools/set-up.sh "$(PYTHON)" "$(VENV)" '.[dev]' test

$(VENV)/.docs: pyproject.toml $(MOVED)
	@bash tools/set-up.sh "$(PYTHON)" "$(VENV)" '.[docs]' docs
