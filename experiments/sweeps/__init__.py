"""Sweeps: files that define `ROWS` for `experiments/sweep.py`."""
