"""Downloads the public AutoTTS replay files into a cache, with checksums."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from autotts_jax.errors import FetchError, InputError, one_line

__all__ = ["FILES", "URL", "fetch"]

#: Where the files are: the AutoTTS repository, at the commit that the checksums belong to.
URL = (
    "https://raw.githubusercontent.com/zhengkid/AutoTTS/6daad631d3a62406910f5e3cf81bc395f8098622/"
    "efficient_reasoning_controller/test_environment/"
)

#: SHA-256 of the release's files (Zheng et al. 2026, arXiv 2605.08083) by model and benchmark.
FILES = {
    "Qwen3-0.6B/aime24": "6b4297405b494c84afb05b337af315c617513eb2580ed327ca7040b760988a7d",
    "Qwen3-0.6B/aime25": "33f65695ecc78fb777f53bead2128ba1249772b3608c6a22bd4e674488d453e0",
    "Qwen3-1.7B/aime24": "5d6c9a63e26c7cf60181c53b67adc7017db146bf2ff1e3b9784673cb97313ad1",
    "Qwen3-1.7B/aime25": "77bfb8e8589d0c0da3ccb6d5852c37bf23273e047664a5086d492896a5ae2496",
    "Qwen3-4B/aime24": "d99ce8711c60605b7555a7fc6e66cc5ae0abe7ce6b36bf4e712802d26aa7ffdd",
    "Qwen3-4B/aime25": "977f56022b0cd225bd0233aff1f7b39740c45ec79693475ada8c766ee4097a3f",
    "Qwen3-8B/aime24": "be725bdacc64712088d5c947b9b869471ad659c8465c3e5b6e9ff5191bfd0128",
    "Qwen3-8B/aime25": "969bba7bb0276f66d421d069e078e20a9b3ff4a59977393a2733a97ca6e4566c",
}


def fetch(
    names: Sequence[str] = (),
    *,
    url: str = URL,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Path:
    """Downloads replay files that the cache lacks, each whole or not at all, and returns the cache's directory.

    Args:
      names: Files as ``<model>/<benchmark>``, or a model for all of its benchmarks; defaults to all files.
      url: The directory that holds ``<model>/<benchmark>.json``, for mirrors.
      cache: The directory to download to; defaults to the user's cache directory.
      progress: Whether to show a progress bar.

    Raises:
      InputError: if a name is unknown, the address is none, or the directory cannot be written to.
      FetchError: if a file cannot be downloaded, or its checksum is wrong.
    """
    import pooch  # takes a while to import, with requests
    import requests

    if not url.startswith(("https://", "http://")):
        raise InputError(f"url {url!r}: must begin with https:// or http://. Name the directory of a mirror.")
    wanted = []
    for name in names or FILES:
        found = [file for file in FILES if name.removesuffix(".json") in (file, file.split("/")[0])]
        if not found:
            raise InputError(f"file {name!r}: not in the release. Use a model or one of {', '.join(FILES)}.")
        wanted += found
    store = pooch.create(
        path=pooch.os_cache("autotts_jax") if cache is None else Path(cache),
        base_url=url.rstrip("/") + "/",
        registry={f"{name}.json": f"sha256:{digest}" for name, digest in FILES.items()},
    )
    for name in dict.fromkeys(wanted):
        try:
            store.fetch(f"{name}.json", progressbar=progress)
        except requests.HTTPError as error:
            raise FetchError(f"{one_line(error)}. Name a mirror with --url.") from error
        except requests.ConnectionError as error:
            raise FetchError(
                f"{store.get_url(f'{name}.json')} cannot be reached: this machine seems to be offline, or the address "
                "is wrong. Try again online, name a mirror with --url, or use the built-in trajectories."
            ) from error
        except requests.RequestException as error:
            raise FetchError(f"{store.get_url(f'{name}.json')}: {one_line(error)}. Try again.") from error
        except ValueError as error:  # pooch's exception for a wrong checksum; it has removed the file
            raise FetchError(
                f"{name}.json: {one_line(error)} The file there is not the published one, or was cut off: try again, "
                "or name another mirror."
            ) from error
        except OSError as error:
            raise InputError(
                f"{store.abspath}: cannot be written to ({one_line(error)}). Choose another directory with --to."
            ) from None
    return Path(store.abspath)
