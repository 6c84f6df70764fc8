"""What a backup's scan is told, by the configuration, and who looks ahead of it. Quick to import: that comes first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tandem_agent.engine.forerunners import Forerunners, forerunners
from tandem_agent.engine.options import ScanOptions

if TYPE_CHECKING:
    from tandem_agent.config import Config


EMPTY_CACHE = 24 << 10
"""The files cache is no larger where it knows of nothing: so a first backup that did not get to its end leaves it."""


def cache_dir(config: Config) -> str:
    """The folder of this repository's caches (index and files), beside its state."""
    return os.path.join(config.state_dir, "cache")


def files_cache(config: Config) -> str:
    """Where the files cache is, if there was a backup."""
    return os.path.join(cache_dir(config), "files.sqlite")


def scan_options(config: Config) -> ScanOptions:
    """What is left out."""
    return ScanOptions(
        excludes=config.exclude, one_file_system=config.one_file_system, skip=own_folders(config)
    )


def own_folders(config: Config) -> tuple[bytes, ...]:
    """What is never a source: the state folder and every tier that is a folder of this machine."""
    folders = [config.state_dir]
    folders += [tier.place.path for tier in config.tiers if tier.place.scheme == "file"]
    return tuple(os.fsencode(os.path.realpath(folder)) for folder in folders)


@contextlib.contextmanager
def looking_ahead(config: Config, sources: Sequence[bytes]) -> Iterator[Forerunners]:
    """Forerunners, while the body runs. What is new since the files cache was written they have fetched."""
    since = 0
    with contextlib.suppress(OSError):  # the first backup
        about = os.stat(files_cache(config))
        since = about.st_mtime_ns if about.st_size > EMPTY_CACHE else 0
    with forerunners(sources, scan_options(config), since) as seen:
        yield seen
