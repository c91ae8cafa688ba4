"""Exact, vectorized replay of test-time scaling controllers in JAX."""
