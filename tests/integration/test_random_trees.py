"""Random trees: what the check accepts runs and finds its values; what it refuses really reads before it is written.

The oracle knows nothing of declarations: it runs the tree's plan by hand over a plain dict.
"""

from collections.abc import Callable
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


Leaf = tuple[str, frozenset[str], frozenset[str]]
Tree = Any  # a Leaf, or (kind, [trees])

leaves = st.tuples(
    st.just("leaf"),
    st.frozensets(st.sampled_from(NAMES), max_size=2),
    st.frozensets(st.sampled_from(NAMES), max_size=2),
)
below = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from(["chain", "outer", "inner"]), st.lists(inner, min_size=1, max_size=4)),
    max_leaves=8,
)
trees = st.tuples(st.sampled_from(["chain", "outer", "inner"]), st.lists(below, min_size=1, max_size=4))
KINDS: dict[str, Callable[..., Composite]] = {"chain": Chain, "outer": Outer, "inner": Inner}


def built(tree: Tree, seen: list[tuple[str, Any]], as_view: bool) -> Any:
    """The tree as stages; each leaf notes what it reads."""
    if tree[0] != "leaf":
        slots = {f"s{number}": built(one, seen, as_view) for number, one in enumerate(tree[1])}
        return KINDS[tree[0]](**slots)
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


def simulate(tree: Tree, values: dict[str, int], seen: list[tuple[str, Any]]) -> None:
    """Run a tree by hand over a dict."""
    kind, *rest = tree
    if kind == "leaf":
        reads, writes = rest
        for name in sorted(reads):
            if name not in values:
                raise ReadTooEarly(name)
            seen.append((name, values[name]))
        for name in writes:
            values[name] = len(seen)
        return
    for _ in range(1 if kind == "chain" else ROUNDS):
        own = [name for name in NAMES if SCOPES[name] == kind]
        hidden = {name: values.pop(name) for name in own if name in values}
        if kind == "inner":
            values["c"] = 0
        for one in rest[0]:
            simulate(one, values, seen)
        for name in own:
            values.pop(name, None)
        if kind in OPEN:
            values.update(hidden)


OPEN: list[str] = []


def closed(tree: Tree, above: tuple[str, ...] = ()) -> bool:
    """Whether every scoped field is used inside its scope only, and no scope is opened inside itself."""
    if tree[0] == "leaf":
        return all(SCOPES[name] in ("run", *above) for name in tree[1] | tree[2])
    return tree[0] not in above and all(closed(one, (*above, tree[0])) for one in tree[1])


def outcome_of(tree: Tree, given_a: bool) -> list[tuple[str, Any]] | None:
    """What all readers see, by the oracle; None where one finds nothing."""
    seen: list[tuple[str, Any]] = []
    try:
        simulate(tree, {"a": 7} if given_a else {}, seen)
    except ReadTooEarly:
        return None
    return seen


@settings(max_examples=300, deadline=None, derandomize=True)
@given(tree=trees, given_a=st.booleans(), as_view=st.booleans())
def test_what_is_accepted_runs_and_what_is_refused_reads_too_early(tree: Tree, given_a: bool, as_view: bool) -> None:
    expected = outcome_of(tree, given_a)
    seen: list[tuple[str, Any]] = []
    state = Values(a=7) if given_a else Values()
    before = dict(state.__dict__)
    assembly = assemble(built(tree, seen, as_view), [], Values, state)
    try:
        assembly.require_sound()
    except GraphError as error:
        assert expected is None or not closed(tree), f"refused, but runs: {error}"
        assert {finding.kind for finding in error.findings} <= {"read before write", "missing producer", "stale read"}
        assert all(finding.actors and finding.message for finding in error.findings)
        assert state.__dict__ == before and type(state) is Values and not seen
        return
    assert expected is not None, "accepted, but a reader finds nothing"
    Runner(assembly, state).run()
    assert seen == expected
