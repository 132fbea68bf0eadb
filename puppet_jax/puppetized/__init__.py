"""A Flax NNX model whose weights are generated: the parts of `puppet_jax.puppetize`."""
