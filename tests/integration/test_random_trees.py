"""Random trees: what the check accepts runs and finds its values; what it refuses really reads before it is written.

The oracle knows nothing of declarations: it goes through a tree by hand over a plain dict, once for each part that runs
only sometimes. A reader is worst off when nothing of that kind has run but what it stands in.
"""

from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from learner import Composite, GraphError, State, field, stage
from stages import Runner, assemble
from stages.stage import FunctionStage

NAMES = ("a", "b", "c", "d")
SCOPES = {"a": "run", "b": "outer", "c": "inner", "d": "inner"}
ROUNDS = 2


class Values(State):
    a: int = field()
    b: int = field(scope="outer")
    c: int = field(scope="inner", default=0)
    d: int = field(scope="inner")


class Chain(Composite):
    """Runs its stages once."""


class Loop(Composite):
    """Runs its stages twice, each time in a new round of its scope."""

    runs = "1+"

    def run(self, state: Any) -> None:
        for _ in range(ROUNDS):
            with state.round():
                super().run(state)


class Outer(Loop):
    each = "outer"


class Inner(Loop):
    each = "inner"


class Maybe(Composite):
    """Runs its stages if its number is among those switched on."""

    runs = "0-1"

    def __init__(self, number: int, switched_on: set[int], **slots: Any) -> None:
        super().__init__(**slots)
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "switched_on", switched_on)

    def run(self, state: Any) -> None:
        if self.number in self.switched_on:
            super().run(state)


Tree = Any
"""("leaf", reads, writes) or (kind, number, trees)."""
Seen = list[tuple[str, Any]]

names = st.frozensets(st.sampled_from(NAMES), max_size=2)
kinds = st.sampled_from(["chain", "outer", "inner", "maybe"])


def holding(inner: st.SearchStrategy[Tree], most: int = 4) -> st.SearchStrategy[Tree]:
    return st.tuples(kinds, st.uuids(version=4), st.lists(inner, min_size=1, max_size=most))


trees = holding(st.recursive(st.tuples(st.just("leaf"), names, names), lambda inner: holding(inner, 3), max_leaves=8))


def built(tree: Tree, seen: Seen, as_view: bool, switched_on: set[int]) -> Any:
    """The tree as stages; each leaf notes what it reads, and writes how many reads there were."""
    if tree[0] != "leaf":
        kind, number, held = tree
        slots = {f"s{place}": built(one, seen, as_view, switched_on) for place, one in enumerate(held)}
        if kind == "maybe":
            return Maybe(number, switched_on, **slots)
        return {"chain": Chain, "outer": Outer, "inner": Inner}[kind](**slots)
    reads, writes = sorted(tree[1]), sorted(tree[2])

    def run(state: Any) -> None:
        for name in reads:
            seen.append((name, getattr(state, name)))
        for name in writes:
            setattr(state, name, len(seen))

    def give(*values: Any) -> Any:
        seen.extend(zip(reads, values, strict=True))
        made = tuple(len(seen) for _ in writes)
        return made[0] if len(made) == 1 else made or None

    if as_view:
        return FunctionStage(stage(reads=tuple(reads), writes=tuple(writes))(run))
    scope = {"give": give}
    exec(f"def run({', '.join(reads)}): return give({', '.join(reads)})", scope)
    function: Any = scope["run"]
    return FunctionStage(stage(writes=tuple(writes))(function))


class ReadTooEarly(Exception):
    """The oracle found a reader without a value."""


def go_through(tree: Tree, values: dict[str, int], seen: Seen, switched_on: set[int], open_scopes: set[str]) -> None:
    """Run a tree by hand over a dict."""
    if tree[0] == "leaf":
        for name in sorted(tree[1]):
            if name not in values:
                raise ReadTooEarly(name)
            seen.append((name, values[name]))
        values.update((name, len(seen)) for name in tree[2])
        return
    kind, number, held = tree
    if kind == "maybe" and number not in switched_on:
        return
    for _ in range(ROUNDS if kind in ("outer", "inner") else 1):
        own = [name for name in NAMES if SCOPES[name] == kind]
        hidden = {name: values.pop(name) for name in own if name in values}
        if kind == "inner":
            values["c"] = 0
        for one in held:
            go_through(one, values, seen, switched_on, open_scopes | {kind})
        for name in own:
            values.pop(name, None)
        if kind in open_scopes:
            values.update(hidden)


def choices(tree: Tree, above: frozenset[int] = frozenset()) -> Iterator[set[int]]:
    """For each part that runs only sometimes: that it runs, and what it stands in."""
    if tree[0] != "leaf":
        kind, number, held = tree
        if kind == "maybe":
            above |= {number}
            yield set(above)
        for one in held:
            yield from choices(one, above)


def seen_by_hand(tree: Tree, given_a: bool, switched_on: set[int]) -> Seen | None:
    """What all readers see, by the oracle; None where one finds nothing."""
    seen: Seen = []
    try:
        go_through(tree, {"a": 7} if given_a else {}, seen, switched_on, set())
    except ReadTooEarly:
        return None
    return seen


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(tree=trees, given_a=st.booleans(), as_view=st.booleans())
def test_what_is_accepted_runs_and_what_is_refused_reads_too_early(tree: Tree, given_a: bool, as_view: bool) -> None:
    expected = [(ways, seen_by_hand(tree, given_a, ways)) for ways in [set(), *choices(tree)]]
    seen: Seen = []
    switched_on: set[int] = set()
    state = Values(a=7) if given_a else Values()
    before = dict(state.__dict__)
    assembly = assemble(built(tree, seen, as_view, switched_on), [], Values, state)
    try:
        assembly.require_sound()
    except GraphError as error:
        assert any(by_hand is None for _, by_hand in expected), f"refused, but runs: {error}"
        kinds = {finding.kind for finding in error.findings}
        assert kinds <= {"read before write", "missing producer", "stale read", "written sometimes"}
        assert all(finding.actors and finding.message for finding in error.findings)
        assert state.__dict__ == before and type(state) is Values and not seen
        return
    assert all(by_hand is not None for _, by_hand in expected), "accepted, but a reader finds nothing"
    for ways, by_hand in expected:
        switched_on.clear()
        switched_on.update(ways)
        seen.clear()
        fresh = Values(a=7) if given_a else Values()
        Runner(assembly, fresh).run()
        assert seen == by_hand
