"""The library's own exceptions."""

__all__ = ["ContractError", "FetchError", "InputError", "PresetError"]


class InputError(ValueError):
    """Bad input; the message names the file, field and value, and what to do."""


class PresetError(InputError):
    """A preset that does not exist, or a number of questions or branches that cannot be drawn."""


class ContractError(InputError):
    """A controller breaks the contract; the message says how, and what to change."""


class FetchError(RuntimeError):
    """A file could not be downloaded; the message says which, why, and what to do."""
