"""Trained puppets as programs and weights that need neither this package nor its libraries."""
