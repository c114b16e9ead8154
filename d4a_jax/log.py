"""The library's logger; a program that uses it decides what is shown and where."""

import logging

logger = logging.getLogger("d4a_jax")
