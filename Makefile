.PHONY: install format lint types test slow quickstart cifar benchmarks docs check

install:  ## everything a developer needs
	pip install -e ".[all,test,docs]"

format:
	ruff format .
	ruff check --fix .

lint:
	ruff check .
	ruff format --check .

types:  ## the library, strictly
	mypy

test:
	python -m pytest

slow:  ## minutes, not seconds; no part of the suite
	python -m pytest -m slow

quickstart:  ## several methods on handwritten digits, and a page that compares them
	ltaug quickstart

cifar:  ## the published benchmark; DATA=folder reads local parquet instead of the hub
	accelerate launch recipes/cifar_lt/train.py --method unimix_bayias $(if $(DATA),--data_dir $(DATA))

benchmarks:
	python -m benchmarks --check

docs:  ## a warning is an error
	sphinx-build -W --keep-going -q -b html docs docs/_build/html

check: lint types test docs
