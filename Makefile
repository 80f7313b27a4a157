# Spells out ordinary commands; the README shows them too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?=

.PHONY: demo test exhaustive proofs check docs linkcheck wheel lowest smoke clean

demo: $(VENV)/installed
	$(BIN)/vaekit fit --config pbmc_mixed
	$(BIN)/vaekit evaluate runs/pbmc_mixed/last.ckpt
	$(BIN)/vaekit embed runs/pbmc_mixed/last.ckpt -o runs/pbmc_mixed/embedding.h5ad --overwrite
	@echo "look at: runs/pbmc_mixed/report.html, and figures/umap.png next to it"

test: $(VENV)/installed
	$(BIN)/python -m pytest $(TESTS)

exhaustive: $(VENV)/installed
	$(BIN)/python -m pytest -m exhaustive $(TESTS)

proofs: $(VENV)/installed
	$(BIN)/python -m pytest -m "proof and not exhaustive"

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/python -m sphinx -b html -j 2 -W --keep-going docs docs/_build/html

linkcheck: docs
	$(BIN)/python -m sphinx -b linkcheck docs docs/_build/linkcheck

wheel: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m twine check --strict dist/*

lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest tests/data tests/analysis tests/models tests/cli vaekit

smoke: .venv-smoke/installed
	.venv-smoke/bin/vaekit fit --config pbmc_mixed --trainer.max_steps 100 --trainer.logger false
	.venv-smoke/bin/vaekit evaluate runs/pbmc_mixed/last.ckpt
	.venv-smoke/bin/vaekit embed runs/pbmc_mixed/last.ckpt -o runs/pbmc_mixed/embedding.h5ad --overwrite

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

.venv-lowest/installed: pyproject.toml tests/lowest_versions.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q -c tests/lowest_versions.txt -e ".[test]"
	touch $@

.venv-smoke/installed: pyproject.toml
	$(PYTHON) -m venv .venv-smoke
	.venv-smoke/bin/python -m pip install -q .
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-smoke build dist docs/_build docs/api/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache
