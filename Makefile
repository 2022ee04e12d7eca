# Everything runs in a virtual environment of its own, .venv; the first call of a target makes it.
# pip's own configuration (index, proxy, cache) is left alone; see the README for CPU and CUDA builds of torch.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
RUN := $(VENV)/bin/python -m

# Tests of what depends on the versions of lm-eval and transformers.
SEAMS := $(addprefix tests/lm_eval_ext/test_,answers.py architectures.py autoload.py forced.py influence.py \
	labels_end_to_end.py launches.py lens.py parity.py passes.py resume.py signals_model.py text_parity.py text_prompts.py text_spans.py versions.py)

.PHONY: demo test test-slow test-oldest test-all lint types imports docs fix bench clean
.DEFAULT_GOAL := test

$(VENV)/.base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install -c constraints.txt torch
	touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml
	$(RUN) pip install -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.base pyproject.toml
	$(RUN) pip install -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.demo

$(OLDEST)/.test: constraints-oldest.txt pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -c constraints-oldest.txt torch
	$(OLDEST)/bin/python -m pip install -c constraints-oldest.txt -e '.[plots]' build hatchling hypothesis pyarrow pytest
	touch $@

demo: $(VENV)/.demo  ## evaluate the small model and its layers, print the tables, save the figures
	$(VENV)/bin/eval-ext demo

test: lint types imports  ## the whole check; under ten minutes
	$(RUN) pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-slow: $(VENV)/.test  ## builds environments, retrains the demo model
	$(RUN) pytest -m "slow and not gpu"

test-oldest: $(OLDEST)/.test  ## the hosts' seams with the oldest lm-eval and transformers that work, in .venv-oldest
	$(OLDEST)/bin/python -m pytest -m "not slow and not gpu" -k "not compiled_model" $(SEAMS)
	$(OLDEST)/bin/python -m pytest tests/test_packaging.py::test_stock_lm_eval_script

test-all: test test-slow test-oldest

lint: $(VENV)/.test
	$(RUN) ruff format --check
	$(RUN) ruff check

types: $(VENV)/.test
	$(VENV)/bin/basedpyright

imports: $(VENV)/.test
	$(VENV)/bin/lint-imports

docs: $(VENV)/.test  ## write docs/metrics.md from the registry
	$(VENV)/bin/python docs/generate.py

fix: $(VENV)/.test
	$(RUN) ruff check --fix
	$(RUN) ruff format

bench: $(VENV)/.test  ## minutes; prints markdown tables
	$(VENV)/bin/python benchmarks/startup.py
	$(VENV)/bin/python benchmarks/stats.py
	$(VENV)/bin/python benchmarks/capture.py
	$(VENV)/bin/python benchmarks/sweep.py

clean:
	rm -rf $(VENV) $(OLDEST) demo-output
