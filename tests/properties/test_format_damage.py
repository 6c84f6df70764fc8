"""Damage to any object is noticed: a bit flip at every offset, every truncation, bytes too many, whatever
else comes (issue 3, Bad input; trust.md 12, 13, 21, 22, 23, 25). Only `Corrupt` or `Unsupported` may be raised,
and for a key slot `Refused`, which is what a wrong passphrase is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.formats import Sample, samples

from tandem_protocol.errors import Corrupt, Refused, TandemError, Unsupported

SAMPLES = {sample.name: sample for sample in samples()}
EXPECTED = (Corrupt, Unsupported)


def outcome(sample: Sample, data: bytes) -> object:
    """What reading gives: a value, or the class of an expected error. Anything else fails the test."""
    try:
        return sample.read(data)
    except EXPECTED as error:
        return type(error)
    except Refused as error:
        assert sample.name.endswith("slot"), "only key slots may refuse"
        return type(error)


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, TandemError)


@pytest.fixture(params=SAMPLES.values(), ids=SAMPLES.keys())
def sample(request: pytest.FixtureRequest) -> Sample:
    found: Sample = request.param
    assert not is_error(outcome(found, found.data)), "the undamaged object must be read"
    return found


def test_a_bit_flip_at_every_offset(sample: Sample) -> None:
    source = random.Random(sample.name)
    unnoticed = []
    for offset in range(len(sample.data)):
        damaged = bytearray(sample.data)
        damaged[offset] ^= 1 << source.randrange(8)
        if not is_error(outcome(sample, bytes(damaged))):
            unnoticed.append(offset)
    assert not (sample.tight and unnoticed)


def test_every_bit_of_the_first_and_last_bytes(sample: Sample) -> None:
    ends = {*range(min(64, len(sample.data))), *range(max(0, len(sample.data) - 24), len(sample.data))}
    for offset in ends:
        for bit in range(8):
            damaged = bytearray(sample.data)
            damaged[offset] ^= 1 << bit
            result = outcome(sample, bytes(damaged))
            assert is_error(result) or not sample.tight
            if sample.tight and offset not in (5, 6):
                assert result is not Unsupported, "only a version or suite says to upgrade"


def test_every_truncation(sample: Sample) -> None:
    for length in range(len(sample.data)):
        assert is_error(outcome(sample, sample.data[:length]))


def test_bytes_too_many(sample: Sample) -> None:
    for extra in (b"\0", b"\xc0", sample.data, bytes(1000)):
        assert is_error(outcome(sample, sample.data + extra))


def test_one_object_for_another(sample: Sample) -> None:
    for other in SAMPLES.values():
        if other is not sample and other.name.split()[-1] != sample.name.split()[-1]:
            assert is_error(outcome(sample, other.data))


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"page", "signed"}))  # see test_tree, test_envelope
def test_a_newer_version_says_to_upgrade(name: str) -> None:
    sample = SAMPLES[name]
    damaged = bytearray(sample.data)
    if sample.name.endswith("pack"):  # a pack is read from its end, where the trailer repeats the header
        damaged[damaged.rindex(b"TNDM") + 5] = 3
    damaged[5] = 3
    with pytest.raises(Unsupported) as caught:
        sample.read(bytes(damaged))
    assert caught.value.remedy == "upgrade tandem"


@given(st.sampled_from(sorted(SAMPLES)), st.binary(max_size=400))
def test_any_bytes(name: str, data: bytes) -> None:
    sample = SAMPLES[name]
    outcome(sample, data)
    assert is_error(outcome(sample, sample.data[:12] + data)) or not sample.tight


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_any_edit(name: str, draw: st.DataObject) -> None:
    """A slice replaced by other bytes, of the same length or not."""
    sample = SAMPLES[name]
    start = draw.draw(st.integers(0, len(sample.data)))
    end = draw.draw(st.integers(start, min(len(sample.data), start + 40)))
    damaged = sample.data[:start] + draw.draw(st.binary(max_size=40)) + sample.data[end:]
    result = outcome(sample, damaged)
    assert damaged == sample.data or is_error(result) or not sample.tight
