"""A run of discovery as one self-contained page, ``report.html``: what was tried, what it gained, what it cost.

All of it is from the run's ledger and sources. Whatever is data there reaches the page as escaped text or as JSON.
"""

from __future__ import annotations

from pathlib import Path

from autotts_discovery.ledger import Ledger
from autotts_discovery.report import tables
from autotts_jax.report import shell

__all__ = ["FILE", "page", "write"]

#: The page's name in the run's directory.
FILE = "report.html"


def write(ledger: Ledger) -> Path:
    """Writes the page as the run stands now.

    Raises:
      InputError: if it cannot be written.
    """
    return ledger.keep(".", FILE, page(ledger))


def page(ledger: Ledger) -> str:
    """The page, as HTML; it needs no network."""
    return shell.render("autotts_discovery.report", tables.tables(ledger))
