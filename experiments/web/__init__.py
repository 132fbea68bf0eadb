"""The page of `experiments.webpage`: its weights (weights.py), its text, and the network in JavaScript."""
