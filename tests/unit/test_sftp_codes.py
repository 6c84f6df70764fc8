"""Numbers and encoding of SFTP messages, against paramiko's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paramiko import Message, sftp

from tandem_protocol.stores import sftp_codes
from tandem_protocol.stores.sftp_messages import Long, packed

CODES = {name: code for name, code in vars(sftp_codes).items() if isinstance(code, int)}


def test_every_code_is_that_of_the_draft() -> None:
    theirs = {name.removeprefix("CMD_").removeprefix("SFTP_"): code for name, code in vars(sftp).items()}
    assert len(CODES) > 20
    assert {name: theirs[name] for name in CODES} == CODES


FIELDS = st.one_of(
    st.binary(max_size=300),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1).map(Long),
)


@given(number=st.integers(0, 2**32 - 1), kind=st.integers(0, 255), fields=st.lists(FIELDS, max_size=6))
def test_a_request_is_packed_as_paramiko_does(number: int, kind: int, fields: list[int | bytes]) -> None:
    theirs = Message()
    theirs.add_byte(bytes([kind]))
    theirs.add_int(number)
    for field in fields:
        if isinstance(field, bytes):
            theirs.add_string(field)
        elif isinstance(field, Long):
            theirs.add_int64(field)
        else:
            theirs.add_int(field)
    body = theirs.asbytes()
    assert packed(number, kind, fields) == len(body).to_bytes(4) + body
