"""The page of `experiments.explore`: what is computed, how it is told, and the page itself, in a file each."""
