"""Training: a run from start to end, and its parts."""
