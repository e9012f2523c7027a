.PHONY: install format lint types test slow quickstart cifar benchmarks docs check

LAUNCH = accelerate launch --config_file accelerate_config.yaml

install:  ## everything a developer needs
	pip install -e ".[all,test,docs]"

format:
	ruff format .
	ruff check --fix .

lint:
	ruff check .
	ruff format --check .

types:  ## the library strictly; a recipe's folder alone, since `config.py` and `data.py` stand in every recipe
	mypy

test:
	python -m pytest

slow:  ## minutes, not seconds; no part of the suite
	python -m pytest -m slow

quickstart:
	$(LAUNCH) recipes/cifar_lt/quickstart.py

cifar:  ## the published benchmark; DATA=folder reads local parquet instead of the hub
	$(LAUNCH) recipes/cifar_lt/train.py --config recipes/cifar_lt/configs/unimix_bayias.yaml $(if $(DATA),--data_dir $(DATA))

benchmarks:
	python -m benchmarks --check

docs:
	sphinx-build -W -b html docs docs/_build/html

check: lint types test
