"""The table "Looking at a tier" of the tier protocol, line by line and in its order (A6, A9, A10; trust.md 11-17)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.documents import OTHER_TIER, RING, TIER, Scene, Writer, nonce_of

from tandem_protocol.identity import Identity
from tandem_protocol.verdict import Case, Fault, Rewrite, SeenNumber, State, judge


def verdict_of(scene: Scene) -> Any:
    return judge(scene.seen, scene.believed)


def outcome(scene: Scene) -> tuple[Case, State]:
    verdict = verdict_of(scene)
    return verdict.case, verdict.state


def damage_at(number: int, scene: Scene, claim: bool = False, record: bool = False) -> Scene:
    found = scene.numbers.get(number, SeenNumber())
    scene.numbers[number] = SeenNumber(
        Fault.DAMAGED if claim else found.claim, Fault.DAMAGED if record else found.record
    )
    return scene


# Level


def test_all_as_the_journal_says_is_online() -> None:
    verdict = verdict_of(Scene())
    assert (verdict.case, verdict.state, verdict.reason) == (Case.LEVEL, State.ONLINE, "")
    assert verdict.repairs == ()
    assert verdict.foreign is None


def test_level_and_not_complete_is_lagging() -> None:
    verdict = verdict_of(Scene().believe(complete=False))
    assert (verdict.case, verdict.state, verdict.reason) == (Case.LEVEL, State.LAGGING, "lacks revisions")


def test_with_every_revision_and_not_complete_it_lacks_objects() -> None:
    verdict = verdict_of(Scene().believe(complete=False, holds_all=True))
    assert (verdict.case, verdict.state) == (Case.LEVEL, State.LAGGING)
    assert verdict.reason == "objects are damaged or missing there: tandem sync mends them"


def test_a_tier_that_was_never_written_is_no_rollback() -> None:
    scene = Scene().believe(highest_held=0, last_written=0, complete=False)
    scene.numbers, scene.epochs = {}, {}
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state) == (Case.LEVEL, State.LAGGING)
    assert verdict.repairs == ()


def test_a_gap_in_the_numbers_is_no_error() -> None:
    scene = Scene(head=5)
    for number in (2, 4):
        del scene.numbers[number]
        del scene.believed.journal[number]  # type: ignore[attr-defined]  # a dict here
    assert outcome(scene) == (Case.LEVEL, State.ONLINE)


# Identity


def test_no_identity_is_offline() -> None:
    scene = Scene()
    scene.identity = None
    assert outcome(scene) == (Case.NO_IDENTITY, State.OFFLINE)


def test_a_damaged_identity_among_our_own_epochs_is_written_again() -> None:
    scene = Scene()
    scene.identity = Fault.DAMAGED
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state) == (Case.LEVEL, State.ONLINE)
    assert verdict.repairs == (Rewrite("identity"),)


@pytest.mark.parametrize("epochs", [{}, {1: Fault.DAMAGED}, {1: Writer().certificate}])
def test_a_damaged_identity_where_nothing_is_ours_is_left_alone(epochs: dict[int, Any]) -> None:
    scene = Scene()
    scene.identity, scene.epochs = Fault.DAMAGED, epochs
    for number in scene.numbers:
        damage_at(number, scene, claim=True)  # as another tier's are
    assert outcome(scene) == (Case.NO_IDENTITY, State.OFFLINE)


def test_a_damaged_identity_and_epoch_beside_a_claim_that_names_this_tier() -> None:
    scene = Scene()
    scene.identity, scene.epochs = Fault.DAMAGED, {1: Fault.DAMAGED}
    scene.names_tier = True
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state) == (Case.LEVEL, State.ONLINE)
    assert verdict.repairs == (Rewrite("identity"), Rewrite("epoch", 1))


def test_a_damaged_identity_beside_claims_of_another_disk_is_left_alone() -> None:
    """Two disks that take turns at one place: both have our epoch."""
    scene = Scene()
    scene.identity, scene.names_tier = Fault.DAMAGED, False
    assert outcome(scene) == (Case.NO_IDENTITY, State.OFFLINE)


def test_another_disk_of_the_repository_is_offline() -> None:
    scene = Scene()
    scene.identity = Identity(RING.repository_id, OTHER_TIER, RING.root_public)
    assert outcome(scene) == (Case.OTHER_TIER, State.OFFLINE)


def test_another_repository_is_blocked_even_with_our_tier_id() -> None:
    scene = Scene()
    scene.identity = Identity(b"z" * 16, TIER, RING.root_public)
    assert outcome(scene) == (Case.OTHER_REPOSITORY, State.BLOCKED)


def test_a_newer_layout_is_blocked() -> None:
    scene = Scene()
    scene.identity = Fault.UNSUPPORTED
    assert outcome(scene) == (Case.UNSUPPORTED, State.BLOCKED)


# Forged and unsupported documents


@pytest.mark.parametrize("at", [2, 4])
@pytest.mark.parametrize("where", ["claim", "record"])
def test_a_forged_document_blocks(at: int, where: str) -> None:
    scene = Scene()
    scene.numbers[at] = SeenNumber(**{where: Fault.FORGED})
    assert outcome(scene) == (Case.FORGED, State.BLOCKED)


def test_a_document_that_needs_a_newer_program_blocks() -> None:
    scene = Scene()
    scene.numbers[4] = SeenNumber(scene.writer.claim(4), Fault.UNSUPPORTED)
    assert outcome(scene) == (Case.UNSUPPORTED, State.BLOCKED)


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_up_to_ours_that_needs_a_newer_program_blocks_and_is_not_moved_aside(epoch: int) -> None:
    scene = Scene(writer=Writer(epoch=2))
    scene.epochs[epoch] = Fault.UNSUPPORTED
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state, verdict.repairs) == (Case.UNSUPPORTED, State.BLOCKED, ())
    assert f"epoch {epoch}" in verdict.reason and "upgrade" in verdict.reason


# Second installation


@pytest.mark.parametrize("found", [Writer(epoch=2).certificate, Fault.DAMAGED, Fault.UNSUPPORTED])
def test_an_epoch_above_ours_readable_or_not(found: Any) -> None:
    scene = Scene()
    scene.epochs[2] = found
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state) == (Case.SECOND_INSTALLATION, State.BLOCKED)
    assert not verdict.is_clone
    assert verdict.foreign is (None if isinstance(found, Fault) else found)


def test_our_epoch_with_another_good_certificate() -> None:
    scene = Scene()
    scene.epochs[1] = Writer(epoch=1).certificate
    assert outcome(scene) == (Case.SECOND_INSTALLATION, State.BLOCKED)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_claim_above_the_head_that_is_not_ours(epoch: int) -> None:
    scene = Scene()
    claim = Writer(epoch).claim(4)
    scene.numbers[4] = SeenNumber(claim)
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.foreign, verdict.is_clone) == (Case.SECOND_INSTALLATION, claim, False)


def test_a_claim_of_our_own_installation_is_a_clones() -> None:
    scene = Scene()
    scene.numbers[4] = SeenNumber(scene.writer.claim(4))
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.is_clone) == (Case.SECOND_INSTALLATION, True)


def test_another_nonce_at_a_number_that_we_know() -> None:
    scene = Scene()
    scene.numbers[2] = SeenNumber(scene.writer.claim(2, nonce=nonce_of(2, 9)))
    assert outcome(scene) == (Case.SECOND_INSTALLATION, State.BLOCKED)


def test_other_bytes_under_our_nonce() -> None:
    scene = Scene()
    scene.numbers[3] = SeenNumber(scene.writer.claim(3), scene.writer.record(3))
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.is_clone) == (Case.SECOND_INSTALLATION, True)


def test_our_record_of_another_number_proves_nothing() -> None:
    """Judged by number, not by whether the nonce was heard of before."""
    scene = Scene()
    scene.numbers[4] = SeenNumber(scene.writer.claim(4, nonce=nonce_of(2)))
    assert outcome(scene) == (Case.SECOND_INSTALLATION, State.BLOCKED)


def test_a_record_of_the_pending_number_that_we_have_not_decided() -> None:
    scene = Scene().intend(4)
    scene.numbers[4] = SeenNumber(scene.writer.claim(4), scene.writer.record(4))
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.is_clone) == (Case.SECOND_INSTALLATION, True)


def test_another_claim_on_the_pending_number() -> None:
    scene = Scene().intend(4)
    scene.numbers[4] = SeenNumber(Writer().claim(4, nonce=nonce_of(4, 9)))
    assert outcome(scene) == (Case.SECOND_INSTALLATION, State.BLOCKED)


def test_a_damaged_claim_above_the_head() -> None:
    assert outcome(damage_at(4, Scene(), claim=True)) == (Case.SECOND_INSTALLATION, State.BLOCKED)


@pytest.mark.parametrize("number", [2, 4])
def test_a_damaged_record_without_a_claim_where_we_never_wrote(number: int) -> None:
    scene = Scene()
    scene.believed.journal.pop(number, None)  # type: ignore[attr-defined]  # a dict here
    scene.numbers[number] = SeenNumber(None, Fault.DAMAGED)
    assert outcome(scene) == (Case.SECOND_INSTALLATION, State.BLOCKED)


# What looks like one and is none


def test_our_own_pending_claim_is_ours() -> None:
    scene = Scene().intend(4, answered=True)
    scene.numbers[4] = SeenNumber(scene.writer.claim(4))
    assert outcome(scene) == (Case.LEVEL, State.ONLINE)


@pytest.mark.parametrize("parts", [{"claim": True}, {"record": True}, {"claim": True, "record": True}])
def test_damage_at_the_pending_number_is_no_alarm(parts: dict[str, bool]) -> None:
    scene = Scene().intend(4)
    scene.numbers[4] = SeenNumber(scene.writer.claim(4))
    verdict = verdict_of(damage_at(4, scene, **parts))
    assert (verdict.case, verdict.repairs) == (Case.LEVEL, ())


def test_a_decided_number_is_judged_by_the_journal() -> None:
    scene = Scene(4).intend(4, answered=True).believe(highest_held=3, last_written=3, complete=False)
    assert outcome(scene) == (Case.LEVEL, State.LAGGING)


def test_a_damaged_claim_in_a_gap_below_the_head_is_no_alarm() -> None:
    scene = Scene()
    scene.believed.journal.pop(2)  # type: ignore[attr-defined]  # a dict here
    scene.numbers[2] = SeenNumber(Fault.DAMAGED)
    assert outcome(scene) == (Case.LEVEL, State.ONLINE)


# Late side


@pytest.mark.parametrize("with_record", [False, True])
def test_a_lower_epoch_that_is_not_imported_is_a_late_side(with_record: bool) -> None:
    old = Writer(epoch=1)
    scene = Scene(writer=Writer(epoch=2))
    scene.numbers[4] = SeenNumber(old.claim(4), old.record(4) if with_record else None)
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state) == (Case.LATE_SIDE, State.LAGGING)
    assert verdict.foreign is scene.numbers[4].claim


def test_a_tier_not_imported_since_the_takeover_is_a_late_side() -> None:
    assert outcome(Scene().believe(imported=False)) == (Case.LATE_SIDE, State.LAGGING)


# Rolled back


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("left", [(True, False), (False, True), (False, False)])
def test_highest_held_or_last_written_gone(number: int, left: tuple[bool, bool]) -> None:
    scene = Scene().believe(highest_held=3, last_written=number)
    found = scene.numbers[number]
    scene.numbers[number] = SeenNumber(found.claim if left[0] else None, found.record if left[1] else None)
    assert outcome(scene) == (Case.ROLLED_BACK, State.LAGGING)


def test_a_number_that_was_not_even_read_is_gone() -> None:
    scene = Scene()
    del scene.numbers[3]
    assert outcome(scene) == (Case.ROLLED_BACK, State.LAGGING)


@pytest.mark.parametrize(("answered", "case"), [(True, Case.ROLLED_BACK), (False, Case.LEVEL)])
def test_the_claim_of_the_pending_number_gone(answered: bool, case: Case) -> None:
    scene = Scene().intend(4, answered)
    assert verdict_of(scene).case is case
    scene.numbers[4] = SeenNumber()
    assert verdict_of(scene).case is case


def test_a_record_without_its_claim() -> None:
    scene = Scene()
    scene.numbers[2] = SeenNumber(None, scene.records[2])
    assert outcome(scene) == (Case.ROLLED_BACK, State.LAGGING)


def test_a_rollback_is_told_once_then_it_waits_to_be_compared() -> None:
    scene = Scene().believe(to_compare=True, highest_held=0, last_written=0, complete=False)
    scene.numbers = {2: SeenNumber(None, scene.records[2])}
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state) == (Case.LEVEL, State.LAGGING)
    assert "compared" in verdict.reason


# Damage of what is ours


def test_damaged_claims_and_records_of_the_journal_are_written_again() -> None:
    scene = damage_at(3, damage_at(2, Scene(), claim=True), claim=True, record=True)
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.state) == (Case.LEVEL, State.ONLINE)
    assert verdict.repairs == (Rewrite("claim", 2), Rewrite("claim", 3), Rewrite("record", 3))


def test_damaged_epochs_up_to_ours_are_moved_aside() -> None:
    scene = Scene(writer=Writer(epoch=3))
    scene.epochs |= {1: Fault.DAMAGED, 2: Writer(2).certificate, 3: Fault.DAMAGED}
    verdict = verdict_of(scene)
    assert verdict.case is Case.LEVEL
    assert verdict.repairs == (Rewrite("epoch", 1), Rewrite("epoch", 3))


@pytest.mark.parametrize(("last_written", "repairs"), [(3, (Rewrite("epoch", 1),)), (0, ())])
def test_our_epoch_is_written_again_only_where_we_wrote_before(last_written: int, repairs: object) -> None:
    scene = Scene().believe(last_written=last_written)
    scene.epochs = {}
    assert verdict_of(scene).repairs == repairs


# Order: of two lines that apply, the first in the table decides

LAYERS: list[tuple[Case, Any]] = [
    (Case.NO_IDENTITY, lambda s: setattr(s, "identity", None)),
    (Case.FORGED, lambda s: s.numbers.__setitem__(6, SeenNumber(Fault.FORGED))),
    (Case.UNSUPPORTED, lambda s: s.numbers.__setitem__(7, SeenNumber(Fault.UNSUPPORTED))),
    (Case.SECOND_INSTALLATION, lambda s: s.epochs.__setitem__(9, Fault.DAMAGED)),
    (Case.LATE_SIDE, lambda s: s.numbers.__setitem__(5, SeenNumber(Writer(epoch=1).claim(5)))),
    (Case.ROLLED_BACK, lambda s: s.numbers.pop(3)),
    (Case.LEVEL, lambda s: damage_at(2, s, record=True)),
]


@pytest.mark.parametrize("first", range(len(LAYERS)))
def test_each_case_stands_above_all_that_follow(first: int) -> None:
    scene = Scene(writer=Writer(epoch=2))
    for _, change in LAYERS[first:]:
        change(scene)
    assert verdict_of(scene).case is LAYERS[first][0]


@pytest.mark.parametrize(
    ("identity", "case"),
    [
        (Fault.UNSUPPORTED, Case.UNSUPPORTED),
        (Identity(RING.repository_id, OTHER_TIER, RING.root_public), Case.OTHER_TIER),
        (Identity(b"z" * 16, OTHER_TIER, RING.root_public), Case.OTHER_REPOSITORY),
    ],
)
def test_who_it_is_stands_above_what_is_there(identity: Any, case: Case) -> None:
    scene = Scene()
    scene.identity = identity
    scene.epochs[9] = Fault.DAMAGED
    assert verdict_of(scene).case is case


def test_a_damaged_identity_with_a_second_installation_is_not_mended() -> None:
    scene = Scene()
    scene.identity = Fault.DAMAGED
    scene.epochs[9] = Fault.DAMAGED
    verdict = verdict_of(scene)
    assert (verdict.case, verdict.repairs) == (Case.SECOND_INSTALLATION, ())


def test_epochs_are_mended_on_a_late_side_and_on_a_rolled_back_tier() -> None:
    for _, change in LAYERS[4:6]:
        scene = Scene(writer=Writer(epoch=2))
        scene.epochs[1] = Fault.DAMAGED
        change(scene)
        assert verdict_of(scene).repairs == (Rewrite("epoch", 1),)
