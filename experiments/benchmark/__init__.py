"""The parts of `experiments/bench.py`."""
