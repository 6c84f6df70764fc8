"""FTP listings: what is understood, and that anything else is passed over (trust.md 26, 27; code.md 7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_protocol.names import valid
from tandem_protocol.store import Entry
from tandem_protocol.stores.ftp_listing import entries_of

LS = b"-rw-------    1 1        1         9000006 Nov 22 17:58 file\r\n"


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (LS, Entry("file", 9000006, False)),
        (b"drwx------    2 1        1            4096 Nov 22  2019 zz\r\n", Entry("zz", 0, True)),
        (b"-rw-r--r--   1 ftp      65534     9000000 Nov 22 17:57 file\r\n", Entry("file", 9000000, False)),
        (b"-rw-r--r--+   1 a b 5 Jan  1 1:57 c\n", Entry("c", 5, False)),
        (b"lrwxrwxrwx    1 0 0 5 Nov 22 17:58 link -> file\r\n", None),
        (b"-rw-------    1 1 1 5 Nov 22 17:58 two words\r\n", None),
        (b"-rw-------    1 1 1 5 Nov 22 17:58 ../x\r\n", None),
        (b"-rw-------    1 1 1 9999999999999999999 Nov 22 17:58 x\r\n", None),
        (b"total 5\r\n", None),
        (b"11-22-26  05:58PM       <DIR>          windows\r\n", None),
    ],
)
def test_lines_as_ls_prints_them(line: bytes, entry: Entry | None) -> None:
    assert entries_of(line, with_facts=False) == ([] if entry is None else [entry])


def test_the_rest_of_a_name_with_a_line_break_takes_its_beginning_with_it() -> None:
    assert entries_of(LS.replace(b"file", b"a\nb") + LS, with_facts=False) == [Entry("file", 9000006, False)]
    facts = b"type=file;size=5; a\nb\r\ntype=file;size=6; c\r\n"
    assert entries_of(facts, with_facts=True) == [Entry("c", 6, False)]


@given(st.binary(max_size=300), st.booleans())
def test_anything_else_gives_valid_names_or_none(data: bytes, with_facts: bool) -> None:
    for entry in entries_of(LS + data, with_facts):
        assert valid(entry.name)
        assert "/" not in entry.name
        assert entry.size >= 0
