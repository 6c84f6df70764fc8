"""Which names a scan leaves out: patterns in gitignore's syntax, relative to each source.

As with git, what lies in an excluded folder cannot be taken back in, since the folder is not entered; so each
name is asked for by itself, from the top down, and the last pattern that matches it decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from tandem_protocol.errors import Usage


class Excluder:
    """Patterns of one backup. Immutable after it is made."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises `Usage` naming the pattern that is not one."""
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for pattern in patterns:
            from pathspec.patterns.gitignore.spec import (
                GitIgnoreSpecPattern,
            )  # costs 30 ms, and most have no patterns

            try:
                made = GitIgnoreSpecPattern(pattern)
            except ValueError as error:
                raise Usage(
                    f"{pattern!r} is not an exclude pattern", "see gitignore(5) for the syntax"
                ) from error
            if made.regex is not None and made.include is not None:
                self._rules.append((made.regex, made.include))
        self._rules.reverse()
        self.active = bool(self._rules)
        # A pattern without a slash asks for the last part alone, and the same names come again and again.
        self._by_name = not any("/" in pattern.strip().rstrip("/") for pattern in patterns)
        self._decide_name = lru_cache(maxsize=1 << 14)(self._decide)

    def excluded(self, relative: bytes, is_folder: bool) -> bool:
        """Whether ``relative`` (below the source, no slash in front) is to be left out. The folders that it
        is in are taken to be in."""
        if self._by_name:
            return self._decide_name(relative[relative.rfind(b"/") + 1 :], is_folder)
        return self._decide(relative, is_folder)

    def _decide(self, relative: bytes, is_folder: bool) -> bool:
        text = relative.decode("utf-8", "surrogateescape")
        if is_folder:
            text += "/"
        for regex, exclude in self._rules:
            found = regex.match(text)
            # The library's one group is the slash at which a pattern matched a folder; anywhere but at the
            # end that is a folder further up, which was asked for before.
            if found is not None and (not found.lastindex or found.end(1) == len(text)):
                return exclude
        return False
