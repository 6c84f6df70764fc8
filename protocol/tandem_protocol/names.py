"""Object names and the paths they have on a tier, checked on the way in and on the way out.

A name is 64 lowercase hex digits: the BLAKE3 of the object's bytes. Fixed length and one case, so that
shares that fold case cannot merge two of them.
"""

from __future__ import annotations

import re
from enum import StrEnum

from blake3 import blake3

IDENTITY = "tandem"
EPOCHS = "epochs"
REVISIONS = "revisions"
TMP = "tmp"
DAMAGED = "quarantine/damaged"

MAX_NUMBER = 2**64 - 1
_PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}")
_HEX64 = re.compile(r"[0-9a-f]{64}")


class ObjectType(StrEnum):
    """Types of immutable objects; the value is what records and lists carry."""

    PACK = "pack"
    INDEX = "index"
    SNAPSHOT = "snapshot"
    KEY = "key"
    LIST = "list"


_FOLDERS = {
    ObjectType.PACK: "packs",
    ObjectType.INDEX: "index",
    ObjectType.SNAPSHOT: "snapshots",
    ObjectType.KEY: "keys",
    ObjectType.LIST: "lists",
}
_SHARDED = {ObjectType.PACK, ObjectType.INDEX, ObjectType.SNAPSHOT}


def valid(path: str) -> bool:
    """Whether ``path`` may be given to a store: lowercase ASCII parts, no ``.`` or ``..``, no empty part."""
    return len(path) <= 512 and all(_PART.fullmatch(part) for part in path.split("/"))


def object_name(data: bytes | bytearray | memoryview) -> bytes:
    """The 32-byte name of an object: the BLAKE3 of its bytes, so that anyone verifies it without a key."""
    return blake3(data).digest()


def object_path(kind: ObjectType, name: bytes) -> str:
    """The path of an object on a tier."""
    text = name.hex()
    if not _HEX64.fullmatch(text):
        raise ValueError("an object name has 32 bytes")
    folder = _FOLDERS[kind]
    return f"{folder}/{text[:2]}/{text}" if kind in _SHARDED else f"{folder}/{text}"


def object_folders(kind: ObjectType) -> list[str]:
    """Every folder that can hold objects of this type (256 for the sharded ones)."""
    folder = _FOLDERS[kind]
    return [f"{folder}/{i:02x}" for i in range(256)] if kind in _SHARDED else [folder]


def parse_object_name(last_part: str) -> bytes | None:
    """The name in the last part of a listed path, or None if it is not one."""
    return bytes.fromhex(last_part) if _HEX64.fullmatch(last_part) else None


def number_folder(number: int) -> str:
    """The leaf folder (of 256 numbers) that holds claim and record of ``number``."""
    if not 0 < number <= MAX_NUMBER:
        raise ValueError(f"revision numbers are 1 to 2^64-1, not {number}")
    text = f"{number:016x}"
    return f"{REVISIONS}/{text[:12]}/{text[12:14]}"


def claim_path(number: int) -> str:
    return f"{number_folder(number)}/{number & 0xFF:02x}.claim"


def record_path(number: int) -> str:
    return f"{number_folder(number)}/{number & 0xFF:02x}.record"


_NUMBERED = re.compile(r"revisions/([0-9a-f]{12})/([0-9a-f]{2})/([0-9a-f]{2})\.(claim|record)")


def parse_numbered(path: str) -> tuple[int, str] | None:
    """(number, "claim" or "record") of a listed path, or None if it is neither."""
    found = _NUMBERED.fullmatch(path)
    if found is None or (number := int("".join(found.group(1, 2, 3)), 16)) == 0:
        return None
    return number, found.group(4)


def epoch_path(epoch: int) -> str:
    return f"{EPOCHS}/{epoch:016x}"


def parse_epoch(last_part: str) -> int | None:
    """The epoch number of a listed file name, or None if it is not one."""
    return int(last_part, 16) if re.fullmatch(r"[0-9a-f]{16}", last_part) else None
