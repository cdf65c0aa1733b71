"""Openings: what the log is told of scopes, and what it can do without."""

import pytest

from state import ChangeLog, State, TrainState, field
from state.openings import Openings
from state.position import Place
from state.recording import Level, Recording
from state.scopes import Scopes
from state.stores import MemoryStore

LOOP = "train/epoch/fit"


class Turns(TrainState):
    tries: int = field(scope="turn", default=0)


class Bench:
    """Scopes of a state with a log that is told of them."""

    def __init__(self, level: Level = "summary", **levels: Level) -> None:
        self.store = MemoryStore()
        self.recording = Recording(self.store, level, levels)
        for actor in ("user", LOOP):
            self.recording.actor(actor, "stage", "")
        self.scopes = Scopes(Turns())
        self.openings = Openings(self.recording, self.scopes)

    def open(self, scope: str, place: Place, *, numbered: bool = False) -> bool:
        hides = self.scopes.open(scope) is not None
        return self.openings.open(LOOP, scope, place, hides=hides, numbered=numbered)

    def close(self, scope: str, *, told: bool, keep: bool = False, place: Place = (None,) * 4) -> None:
        self.scopes.close(scope, {})
        if told:
            self.openings.close(LOOP, scope, place, keep=keep)

    def records(self) -> list[tuple[str, str, object, int | None]]:
        changes = ChangeLog(self.store, self.recording).changes()
        return [(c.kind, c.evidence, c.after, c.position.batch) for c in changes]


def test_regular_epochs_phases_and_batches_are_not_told() -> None:
    bench = Bench()
    for epoch in range(2):
        assert not bench.open("epoch", (epoch, None, None, 0))
        for phase in ("fit", "validate"):
            assert not bench.open("phase", (epoch, phase, None, 0))
            for batch in range(2):
                assert not bench.open("batch", (epoch, phase, batch, 0), numbered=True)
                bench.close("batch", told=False)
            bench.close("phase", told=False)
        bench.close("epoch", told=False)
    assert bench.records() == []


@pytest.mark.parametrize(
    ("scope", "place"),
    [
        ("turn", (0, "fit", 0, 0)),
        ("update", (0, "fit", 0, 0)),
        ("batch", (0, "fit", 0, 0)),
        ("phase", (0, None, None, 0)),
        ("epoch", (None, None, None, 0)),
    ],
)
def test_scope_without_a_number_of_its_own_is_told(scope: str, place: Place) -> None:
    bench = Bench()
    assert bench.open(scope, place)
    bench.close(scope, told=True)
    assert bench.records() == [("open", scope, None, None), ("close", scope, None, None)]


@pytest.mark.parametrize(("scope", "place"), [("phase", (0, "fit", None, 0)), ("epoch", (0, None, None, 0))])
def test_second_of_one_place_is_told_until_the_next_run(scope: str, place: Place) -> None:
    bench = Bench()
    for expected in (False, True):
        assert bench.open(scope, place) is expected
        bench.close(scope, told=expected)
    bench.openings.begin_run()
    assert not bench.open(scope, place)


def test_scope_that_is_open_already_is_told_and_so_is_all_inside() -> None:
    bench = Bench()
    assert not bench.open("phase", (0, "fit", None, 0))
    assert not bench.open("batch", (0, "fit", 3, 0), numbered=True)
    assert bench.open("phase", (0, "validate", None, 0))
    assert bench.open("batch", (0, "validate", 0, 0), numbered=True)
    bench.close("batch", told=True)
    bench.close("phase", told=True)
    bench.close("batch", told=False)
    assert not bench.open("batch", (0, "fit", 4, 0), numbered=True)


def test_phase_inside_a_batch_is_told_though_no_other_is_open() -> None:
    bench = Bench()
    assert bench.open("batch", (0, None, None, 0))
    assert bench.open("phase", (0, "validate", None, 0))


def test_scope_of_ones_own_leaves_regular_ones_inside_untold() -> None:
    bench = Bench()
    assert bench.open("turn", (None, None, None, 0))
    assert not bench.open("epoch", (0, None, None, 0))


def test_records_stand_at_the_place_round_the_scope() -> None:
    bench = Bench()
    bench.open("batch", (0, "fit", 3, 0), numbered=True)
    bench.recording.position = (0, "fit", 3, 0)
    told = bench.open("phase", (0, "validate", None, 0))
    bench.recording.cut()
    bench.recording.position = (0, "validate", None, 0)
    bench.close("phase", told=told, place=(0, "fit", 3, 0), keep=True)
    assert bench.records() == [("open", "phase", None, 3), ("close", "phase", "kept", 3)]


def test_a_run_that_begins_is_told_by_the_user() -> None:
    bench = Bench()
    bench.openings.begin_run()
    log = ChangeLog(bench.store, bench.recording)
    assert str(next(log.changes())) == "user: open run"
    assert (list(log.tail()), len(log.where(kind="open", evidence="run"))) == ([], 1)


@pytest.mark.parametrize(("level", "told"), [("summary", 1), ("writes", 1), ("off", 0)])
def test_scopes_are_told_where_anything_is_recorded(level: Level, told: int) -> None:
    bench = Bench("off", loss=level)
    bench.openings.begin_run()
    assert len(bench.records()) == told


def test_without_a_recording_nobody_is_told() -> None:
    openings = Openings(None, Scopes(State()))
    openings.begin_run()
    assert not openings.open(LOOP, "turn", (None, None, None, None), hides=False)
