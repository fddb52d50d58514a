"""Training, judging and serving sequential recommenders built on test-time-training layers, in JAX."""
