"""Commands and configurations; run from a clone, not installed with the library."""
