"""Source folders as given: made absolute and checked before anything else is done."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from tandem_protocol.errors import Usage

from .output import shown


def checked_sources(names: Iterable[str | bytes]) -> list[bytes]:
    """Absolute folders, each once, in the order given. A missing one, or one that is no folder, is `Usage`:
    a mistyped name must not end as an empty backup."""
    found: dict[bytes, None] = {}
    for name in names:
        path = os.path.abspath(os.fsencode(name))
        if os.path.islink(path):
            raise Usage(
                f"source {shown(path)} is a symbolic link",
                f"name what it points to: {shown(os.path.realpath(path))}",
            )
        try:
            kind = os.stat(path).st_mode
        except FileNotFoundError:
            raise Usage(
                f"source {shown(path)} is not there", "check its name, and that its disk is mounted"
            ) from None
        except OSError as error:
            raise Usage(f"source {shown(path)}: {error.strerror}", "check its name and rights") from None
        if not stat.S_ISDIR(kind):
            raise Usage(f"source {shown(path)} is not a folder", "name the folder that holds it") from None
        found[path] = None
    return list(found)


def configured_sources(configured: Iterable[bytes]) -> list[bytes]:
    """The configured folders. One that is missing is the backup's to report while others are there; with
    none of them there is nothing to back up."""
    sources = list(configured)
    if not sources:
        raise Usage("no source", "name a folder, or set sources in the configuration")
    links = [source for source in sources if os.path.islink(source)]
    if links or not any(os.path.isdir(source) for source in sources):
        return checked_sources(links or sources)
    return sources
