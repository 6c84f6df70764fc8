"""Taking typed fields out of a decoded map, each with its bounds; whatever does not fit is `Corrupt`.

Fields that nobody asks for are ignored: a newer program may have added them.
"""

from __future__ import annotations

from typing import Any, TypeVar

from .errors import Corrupt

_Bytes = bytes  # the methods below are called like the types they give
_Int = int
_Str = str
_Bool = bool
_List = list[Any]
_Dict = dict[str, Any]
_DICT: Any = dict
_LIST: Any = list
_T = TypeVar("_T")
_MISSING: Any = object()


class Fields:
    """A decoded map. ``what`` names it in errors. A ``default`` makes a field optional."""

    __slots__ = ("_map", "_what")

    def __init__(self, value: object, what: _Str = "document") -> None:
        if not isinstance(value, dict):
            raise Corrupt(f"{what} is not a map")
        self._map: dict[Any, Any] = value
        self._what = what

    def _take(self, name: _Str, kind: type[_T], default: Any) -> _T:
        value: Any = self._map.get(name, _MISSING)
        if value is _MISSING and default is not _MISSING:
            value = default
        if type(value) is not kind:  # isinstance would take True for a number
            raise self.bad(name)
        return value

    def bad(self, name: _Str) -> Corrupt:
        """The error to raise for a field that does not fit."""
        return Corrupt(f"the field {name!r} of the {self._what} is missing or wrong")

    def has(self, name: _Str) -> _Bool:
        return name in self._map

    def bytes(
        self, name: _Str, size: _Int | None = None, max: _Int = 1 << 20, default: Any = _MISSING
    ) -> _Bytes:
        """Bytes, exactly ``size`` of them or at most ``max``."""
        value = self._take(name, _Bytes, default)
        if len(value) > max if size is None else len(value) != size:
            raise self.bad(name)
        return value

    def int(self, name: _Str, lo: _Int = 0, hi: _Int = 2**64 - 1, default: Any = _MISSING) -> _Int:
        """A whole number from ``lo`` to ``hi``, both possible."""
        value = self._take(name, _Int, default)
        if not lo <= value <= hi:
            raise self.bad(name)
        return value

    def str(self, name: _Str, max: _Int = 4096, default: Any = _MISSING) -> _Str:
        """Text of at most ``max`` characters."""
        value = self._take(name, _Str, default)
        if len(value) > max:
            raise self.bad(name)
        return value

    def bool(self, name: _Str, default: Any = _MISSING) -> _Bool:
        return self._take(name, _Bool, default)

    def list(self, name: _Str, max: _Int = 1 << 16, default: Any = _MISSING) -> _List:
        """An array of at most ``max`` items, whose types are for the caller to check."""
        value: _List = self._take(name, _LIST, default)
        if len(value) > max:
            raise self.bad(name)
        return value

    def bytes_list(
        self, name: _Str, size: _Int | None = None, max: _Int = 1 << 16, default: Any = _MISSING
    ) -> _List:
        """An array of byte strings, each of ``size`` bytes if that is given."""
        value = self.list(name, max, default)
        for item in value:
            if type(item) is not _Bytes or (size is not None and len(item) != size):
                raise self.bad(name)
        return value

    def dict(self, name: _Str, default: Any = _MISSING) -> _Dict:
        """A map in the map, as it is."""
        value: _Dict = self._take(name, _DICT, default)
        return value

    def map(self, name: _Str, default: Any = _MISSING) -> Fields:
        """A map in the map."""
        return Fields(self._take(name, _DICT, default), f"{self._what} ({name})")
