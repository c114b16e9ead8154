"""Real images that are chosen instead of distilled, or to begin with."""
