"""The library's own exceptions."""

__all__ = ["ContractError", "FetchError", "InputError", "PresetError"]


class InputError(ValueError):
    """Bad input; the message names the file, field and value, and what to do."""


class PresetError(InputError):
    """An unknown preset, or an invalid number of questions or branches."""


class ContractError(InputError):
    """A controller that breaks the contract; the message says how, and what to change."""


class FetchError(RuntimeError):
    """A failed download; the message says which file, why, and what to do."""
