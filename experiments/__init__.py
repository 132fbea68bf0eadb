"""Runnable experiments with Puppet-CNN; nothing here is imported by `puppet_jax`."""
