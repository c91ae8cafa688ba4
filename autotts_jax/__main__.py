"""``python -m autotts_jax`` runs the ``autotts`` command."""

from autotts_jax.cli import command

command()
