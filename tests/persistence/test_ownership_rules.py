"""Whether a run is free, and for which owner: every combination of all that is known of its owner and of that owner's lease."""

import pytest

from asyncflow.errors import RunLockedError
from asyncflow.persistence._database.jobs import Acquire, Confirm, Delete, Owning, Release
from asyncflow.persistence._database.ownership_rules import (
    Change,
    Liveness,
    Verdict,
    effect_of,
    is_driving,
    to_acquire,
    to_delete,
)
from asyncflow.persistence._database.run_head import Head

FREE, TAKEOVER, LOCKED = Verdict
HERE, ALIAS, ALIVE, DEAD, UNPROVEN = Liveness

NO_LEASE, EXPIRED, JUST_NOW, HOLDS = None, -1.0, 0.0, 5.0
"""Seconds that are left of an owner's lease."""

TABLE: dict[Liveness | None, dict[float | None, tuple[Verdict, Verdict]]] = {
    #            to acquire, to delete
    None: dict.fromkeys((NO_LEASE, EXPIRED, JUST_NOW, HOLDS), (FREE, FREE)),
    HERE: {NO_LEASE: (FREE, LOCKED), EXPIRED: (FREE, FREE), JUST_NOW: (FREE, FREE), HOLDS: (FREE, LOCKED)},
    ALIAS: {NO_LEASE: (LOCKED, LOCKED), EXPIRED: (FREE, FREE), JUST_NOW: (FREE, FREE), HOLDS: (LOCKED, LOCKED)},
    ALIVE: {NO_LEASE: (LOCKED, LOCKED), EXPIRED: (TAKEOVER, FREE), JUST_NOW: (TAKEOVER, FREE), HOLDS: (LOCKED, LOCKED)},
    DEAD: dict.fromkeys((NO_LEASE, EXPIRED, JUST_NOW, HOLDS), (TAKEOVER, FREE)),
    UNPROVEN: {
        NO_LEASE: (LOCKED, LOCKED),
        EXPIRED: (TAKEOVER, FREE),
        JUST_NOW: (TAKEOVER, FREE),
        HOLDS: (LOCKED, LOCKED),
    },
}

CASES = [(owner, left, *verdicts) for owner, row in TABLE.items() for left, verdicts in row.items()]


def head(owner: str | None, epoch: int = 3) -> Head:
    return Head("r", "Report", "", "running", 1, 7, b"digest", 0, 2, "0.1", owner, epoch)


def unasked(owner: str) -> Liveness:
    raise AssertionError(f"asked for the liveness of {owner}")


def test_the_table_has_every_combination() -> None:
    assert TABLE.keys() == {None, *Liveness}
    assert all(row.keys() == {NO_LEASE, EXPIRED, JUST_NOW, HOLDS} for row in TABLE.values())


@pytest.mark.clauses("L2")
@pytest.mark.parametrize(("owner", "left", "acquired", "deleted"), CASES)
def test_a_run_is_free_by_its_owner_and_that_owners_lease(
    owner: Liveness | None, left: float | None, acquired: Verdict, deleted: Verdict
) -> None:
    assert to_acquire(owner, left) is acquired
    assert to_delete(owner, left) is deleted


@pytest.mark.parametrize(("owner", "left", "deleted"), [(o, left, d) for o, left, _, d in CASES if o is not None])
def test_the_catalog_shows_an_owner_as_long_as_its_run_cannot_be_deleted(
    owner: Liveness, left: float | None, deleted: Verdict
) -> None:
    assert is_driving(owner, left) is (deleted is LOCKED)


@pytest.mark.clauses("L1")
@pytest.mark.parametrize(("owner", "left", "acquired", "_"), CASES)
def test_acquiring_raises_the_epoch_and_counts_takeovers_alone(
    owner: Liveness | None, left: float | None, acquired: Verdict, _: Verdict
) -> None:
    job = Acquire("r")
    before = head(None if owner is None else "other")
    if acquired is LOCKED:
        with pytest.raises(RunLockedError):
            effect_of(job, before, "me", lambda _: owner or unasked(""), left)
        assert job.epoch == 0
        return
    change = effect_of(job, before, "me", lambda _: owner or unasked(""), left)

    assert change == Change(head("me", 4), "counted" if acquired is TAKEOVER else "kept")
    assert job.epoch == 4


@pytest.mark.parametrize("left", [NO_LEASE, EXPIRED, HOLDS])
def test_acquiring_by_force_asks_for_no_owner_and_is_no_takeover(left: float | None) -> None:
    assert effect_of(Acquire("r", force=True), head("other"), "me", unasked, left) == Change(head("me", 4))


@pytest.mark.parametrize(
    ("job", "before", "expected"),
    [
        (Release("r", 3), head("me"), Change(head(None), "reset")),
        (Release("r", 2), head("me"), Change(head("me"))),
        (Release("r", 3), head("other"), Change(head("other"))),
        (Release("r", 3), head(None), Change(head(None))),
        (Confirm("r", 3), head("me"), Change(head("me"), "reset")),
        (Confirm("r", 2), head("me"), Change(head("me"))),
        (Confirm("r", 3), head("other"), Change(head("other"))),
        (Delete("r"), head(None), Change(None)),
    ],
)
def test_an_owner_releases_and_confirms_its_own_runs_alone(job: Owning, before: Head, expected: Change) -> None:
    assert effect_of(job, before, "me", unasked, HOLDS) == expected
    assert not isinstance(job, Confirm) or job.is_ours is (expected.takeovers == "reset")
    assert not isinstance(job, Delete) or job.is_done


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        (HERE, "by this process (owner other), which is alive"),
        (ALIVE, "by another process (owner other), which is alive"),
        (UNPROVEN, "by another process (owner other), which may have died since"),
    ],
)
def test_a_locked_run_is_reported_with_all_that_is_known_of_its_owner(owner: Liveness, said: str) -> None:
    with pytest.raises(RunLockedError, match=r"its lease expires in 5\.0 seconds") as caught:
        effect_of(Delete("r"), head("other"), "me", lambda _: owner, HOLDS)

    assert said in str(caught.value)
    assert (caught.value.owner, caught.value.seconds) == ("other", HOLDS)
