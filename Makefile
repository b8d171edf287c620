# `make` or `make help` lists what there is. Needs Python 3.11 to 3.13; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
TRIED := $(VENV)/tried

.DEFAULT_GOAL := help
.PHONY: help setup demo report test coverage test-slow faults bench lint docs wheel try-wheel

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.runs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.tests: $(VENV)/.runs
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.runs ## install the program into .venv

demo: setup ## set up, then run the main job on generated reviews: stage 1, four representations x three seeds, report
	$(RUN) train.py stage=mlm
	$(RUN) train.py stage=sentiment repr=cls,pooler,mean,cls_linear seed=1,2,3 -m
	$(RUN) -m poolwise.report

report: setup ## compare the finished runs
	$(RUN) -m poolwise.report

test: $(VENV)/.tests ## set up, then run the tests
	$(RUN) -m pytest -m 'not slow' -n 2 --durations=5

coverage: $(VENV)/.tests ## run the tests, and say which lines none of them runs; half as long again
	$(RUN) -m pytest -m 'not slow' -n 2 --cov

test-slow: $(VENV)/.tests ## run the tests that take minutes
	$(RUN) -m pytest -m slow --durations=5

faults: $(VENV)/.tests ## kill runs, fill disks, damage files, turn clocks: what survives it, in experiments/faults
	$(RUN) experiments/faults/faults.py

bench: $(VENV)/.tests ## measure throughput beside transformers.Trainer and sentence-transformers; needs ../shared/data and 4 hours
	$(RUN) experiments/throughput/bench.py ../shared/data runs/throughput
	$(RUN) experiments/throughput/settings.py ../shared/data runs/throughput
	$(RUN) experiments/throughput/step.py ../shared/data runs/throughput
	$(RUN) experiments/throughput/summary.py

docs: setup ## build the pages of docs/, README and lab book into docs/_build, and check the links between them
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(RUN) -m sphinx -q -W --keep-going -b html -c docs . docs/_build
	@echo docs/_build/docs/index.html

wheel: $(VENV)/.tests ## build dist/poolwise-VERSION-py3-none-any.whl
	$(RUN) -m hatchling build -t wheel

try-wheel: wheel ## install the wheel with all that it declares into an empty environment, and train in an empty folder
	rm -rf $(TRIED) && mkdir -p $(TRIED)/folder
	$(PYTHON) -m venv $(TRIED)/venv
	$(TRIED)/venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt dist/*.whl
	cd $(TRIED)/folder && ../venv/bin/poolwise stage=mlm pretraining.epochs=1 data.text=96 data.text_dev=32 logger=csv
	cd $(TRIED)/folder && ../venv/bin/poolwise stage=sentiment stage1.epochs=1 data.text=96 data.text_dev=32 repr=pooler protocol=probe logger=csv

lint: $(VENV)/.tests ## check format, style and types, by the hooks of .pre-commit-config.yaml
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" pre-commit run --all-files --show-diff-on-failure
