"""Text and JSON for people and scripts: tables, sizes, times. Results go to stdout, notices to stderr."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tandem_protocol.errors import printable

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size(count: float) -> str:
    """Bytes for people, in powers of 1000: "0 B", "999 B", "1.2 kB", "34 MB"."""
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}" if unit != "B" and value < 9.95 else f"{value:.0f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def number(count: int) -> str:
    return f"{count:,}"


def duration(seconds: float) -> str:
    """Seconds for people: "0.42 s", "12 s", "3:07", "1:02:03"."""
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(count: int, what: str, many: str = "") -> str:
    """``1 revision``, ``2 revisions``; ``many`` where an s does not make it."""
    return f"{number(count)} {what if count == 1 else many or what + 's'}"


def local_time(text: str) -> str:
    """A time in ISO 8601 as people here read it, to the minute."""
    from datetime import datetime

    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return text


def shown(path: bytes | str) -> str:
    """A file name made safe for a screen: no control characters, no half characters."""
    return printable(os.fsdecode(path))


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: dataclasses as objects, bytes as hex digits, sets sorted."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {k.hex() if isinstance(k, bytes) else str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def emit_json(value: Any) -> None:
    """The one JSON document of a command."""
    print(json.dumps(plain(value), indent=2))


def emit_table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> None:
    """A table with columns as wide as needed; those in ``right`` are right-aligned."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    to_right = set(right)
    for line in lines:
        cells = (
            text.rjust(width) if i in to_right else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def emit_reasons(reasons: Iterable[tuple[str, str]]) -> None:
    """Why a tier is not as it should be (its name, and the text), a line each below the table: reasons are long."""
    for name, reason in reasons:
        if reason:
            print(f"{name}: {reason}")


def why(reason: str, trouble: str) -> str:
    """Why a tier is not as it should be; ``trouble``: what blocks it, or did before and may still."""
    before = f"; blocked before: {shown(trouble)}" if trouble not in ("", reason) else ""
    return shown(reason) + before


def notice(text: str) -> None:
    """One line for people beside the result."""
    print(text, file=sys.stderr)


def warn_all(warnings: Sequence[Any], most: int = 20) -> None:
    """The first ``most`` warnings, one line each, and how many more there are."""
    for warning in warnings[:most]:
        notice(f"warning: {printable(str(warning))}")
    if len(warnings) > most:
        notice(f"warning: and {len(warnings) - most} more; --json shows all")
