"""The tables and figures of the papers, from runs of our own: `python -m experiments.tables`."""
