"""Candidates that try what they must not; see `corpus`."""
