"""``python -m autotts_jax`` is the command."""

from autotts_jax.cli import main

main()
