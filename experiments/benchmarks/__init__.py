"""How fast programs are, beside others that do the same work: what `experiments.benchmark` measures."""
