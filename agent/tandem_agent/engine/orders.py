"""What a restore tells a process that writes small files for it, and what comes back: objects to bytes and back.

Pure. Both sides are one program, started together, so the bytes are no format: nothing else ever reads them.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable
from dataclasses import fields

from tandem_agent.engine.filejob import FileJob, Outcome, Piece
from tandem_agent.engine.metadata import Spot, Troubles
from tandem_agent.engine.plan import FrameUse, ReadRange
from tandem_protocol import errors
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import TandemError
from tandem_protocol.frames import Frame
from tandem_protocol.keys import KeyRing

Work = tuple[ReadRange[Piece], DocType, int, list[Frame]]
"""What `FileWriter.write_range` is asked, but for the bytes read."""

_KEYS = [field.name for field in fields(KeyRing) if field.init and field.name != "root_private"]


def encode_keys(ring: KeyRing) -> bytes:
    """The keys that open what is in packs."""
    return marshal.dumps({name: getattr(ring, name) for name in _KEYS})


def decode_keys(data: bytes) -> KeyRing:
    return KeyRing(root_private=None, **marshal.loads(data))


def is_small(use: FrameUse[Piece]) -> bool:
    """Whether all that is wanted of a frame are whole files: these need nothing of one another."""
    return all(piece.whole for piece in use.uses)


def encode_work(work: Work) -> bytes:
    """Only of frames that are `is_small`."""
    read, kind, key_number, frames = work
    spots: dict[int, int] = {}
    places: list[tuple[bytes, bool, bool]] = []
    told = []
    for use, frame in zip(read.frames, frames, strict=True):
        pieces = []
        for piece in use.uses:
            spot = piece.job.spot
            number = spots.get(id(spot))
            if number is None:
                number = spots[id(spot)] = len(places)
                places.append((spot.path, spot.fresh, spot.inherits))
            pieces.append((number, piece.job.entry, piece.job.owner, piece.offset))
        about = (frame.sealed_length, frame.raw_length, frame.codec, frame.dictionary, frame.frame_id)
        told.append((use.offset, about, pieces))
    return marshal.dumps((read.offset, int(kind), key_number, places, told))


def decode_work(data: bytes) -> Work:
    offset, kind, key_number, places, told = marshal.loads(data)
    spots = [Spot(*place) for place in places]
    uses, frames = [], []
    for at, (sealed_length, raw_length, codec, dictionary, frame_id), pieces in told:
        wanted = [
            Piece(FileJob(spots[number], entry, owner), entry[8], start, entry[7], 0, True)
            for number, entry, owner, start in pieces
        ]
        uses.append(FrameUse(0, 0, at, sealed_length, wanted))
        frames.append(Frame(at, sealed_length, raw_length, codec, dictionary, frame_id, b"", []))
    return ReadRange(0, offset, 0, uses), DocType(kind), key_number, frames


def encode_outcome(read: ReadRange[Piece], outcome: Outcome, troubles: Troubles) -> bytes:
    """What came of it; ``troubles`` is empty then."""
    numbers = {id(piece): n for n, piece in enumerate(_pieces(read))} if outcome.failed else {}
    failed = [numbers[id(piece)] for use in outcome.failed for piece in use.uses]
    lost = [(n, piece.job.lost) for n, piece in enumerate(_pieces(read)) if piece.job.lost]
    return marshal.dumps((outcome.files, outcome.bytes, failed, lost, troubles.take()))


def decode_outcome(data: bytes, read: ReadRange[Piece], troubles: Troubles) -> Outcome:
    """The same about the pieces of ``read`` on this side. Raises what the other side could not go on from."""
    told = marshal.loads(data)
    if isinstance(told[0], str):
        raise _error(*told)
    files, count, failed, lost, counts = told
    troubles.add_all(counts)
    if lost:
        pieces = list(_pieces(read))
        for number, why in lost:
            pieces[number].job.lost = why
    outcome = Outcome(files=files, bytes=count)
    if failed:
        bad, number = set(failed), 0
        for use in read.frames:
            uses = [piece for n, piece in enumerate(use.uses, number) if n in bad]
            number += len(use.uses)
            if uses:
                outcome.failed.append(FrameUse(use.pack, use.frame, use.offset, use.sealed_length, uses))
    return outcome


def _pieces(read: ReadRange[Piece]) -> Iterable[Piece]:
    return (piece for use in read.frames for piece in use.uses)


def encode_error(error: BaseException) -> bytes:
    """What ends the restore."""
    if isinstance(error, TandemError):
        return marshal.dumps((type(error).__name__, error.what, error.remedy))
    return marshal.dumps(("", repr(error), ""))


def _error(kind: str, what: str, remedy: str) -> Exception:
    found = getattr(errors, kind, None) if kind else None
    return (
        RuntimeError(f"a process that writes files failed: {what}") if found is None else found(what, remedy)
    )
