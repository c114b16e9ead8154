"""Configurations, one file each, for `experiments/run.py --config=configs/NAME.py`."""
