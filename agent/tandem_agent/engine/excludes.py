"""Which names a scan leaves out: patterns in gitignore's syntax, relative to each source.

As with git, what lies in an excluded folder cannot be taken back in, since the folder is not entered.
"""

from __future__ import annotations

from collections.abc import Sequence

from pathspec import GitIgnoreSpec

from tandem_protocol.errors import Usage

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_TAG_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"


class Excluder:
    """Patterns of one backup. Immutable after it is made."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises `Usage` naming the pattern that is not one."""
        kept = [pattern for pattern in patterns if pattern.strip()]
        for pattern in kept:
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError as error:
                raise Usage(
                    f"{pattern!r} is not an exclude pattern", "see gitignore(5) for the syntax"
                ) from error
        self._spec = GitIgnoreSpec.from_lines(kept)
        self.active = bool(kept)

    def excluded(self, relative: bytes, is_folder: bool) -> bool:
        """Whether ``relative`` (below the source, no slash in front) is to be left out."""
        text = relative.decode("utf-8", "surrogateescape")
        return bool(self._spec.match_file(text + "/" if is_folder else text))
