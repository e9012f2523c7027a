"""Speed and memory of ltaug beside plain code, one command: ``python -m benchmarks``."""
