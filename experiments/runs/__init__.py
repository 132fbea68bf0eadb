"""Folders of runs: what they hold, how they are opened."""
