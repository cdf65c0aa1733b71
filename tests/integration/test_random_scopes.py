"""Random nestings of scopes: what the log says was there before a write is what the writer found in State.

Leaves and hooks note the value of a field before they write it. Scopes open and close by loops of every kind, inside
one another, again and again; parts are run alone, cancelled, or fail with somebody above who catches it.
"""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from learner import Cancel, Composite, Phase, StageError, State, field, stage
from stages import Runner, assemble
from stages.callbacks import FunctionCallback, Point, hooks_of
from stages.stage import FunctionStage
from state import ABSENT, ChangeLog
from state.recording import Recording
from state.stores import MemoryStore

FIELD_OF = {"epoch": "e", "phase": "p", "batch": "b", "update": "u", "turn": "t", "run": "r"}
FIELDS = set(FIELD_OF.values())


class Values(State):
    epochs_done: int = 0
    epoch: int = field(scope="epoch")
    batch_index: int = field(scope="phase")
    r: int = 0
    e: int = field(scope="epoch")
    p: int = field(scope="phase", default=-1)
    b: int = field(scope="batch")
    u: int = field(scope="update")
    t: int = field(scope="turn", default=-2)


class Loop(Composite):
    """Runs its stages in two rounds."""

    runs = "1+"

    def run(self, state: Any) -> None:
        for _ in range(2):
            with state.round():
                Composite.run(self, state)


class Epochs(Loop):
    each = "epoch"
    counts = ("epoch", "epochs_done")


class Fit(Loop, Phase):
    opens, each, counts = "phase", "batch", ("batch_index", None)
    reads, writes = (), ()


class Numbered(Loop):
    each = "batch"
    counts = ("batch_index", None)


class Batches(Loop):
    each = "batch"


class Turns(Loop):
    each = "turn"


class Updates(Loop):
    each = "update"


class Epoch(Composite):
    opens = "epoch"


class PhaseAlone(Composite):
    opens = "phase"


class Batch(Composite):
    opens = "batch"


class Chain(Composite):
    """Runs its stages once."""


class Twice(Composite):
    """Runs its stages two times."""

    runs = "1+"

    def run(self, state: Any) -> None:
        super().run(state)
        super().run(state)


class Catch(Composite):
    """Runs its stages, whatever becomes of them."""

    runs = "0-1"

    def run(self, state: Any) -> None:
        with suppress(ZeroDivisionError):
            super().run(state)


KINDS = [Epochs, Fit, Fit, Numbered, Batches, Turns, Updates, Epoch, PhaseAlone, Batch, Chain, Twice, Catch]

Tree = Any
"""A class, whether hooks stand at it, and trees; or what a leaf does, and the scopes whose fields it writes."""

leaves = st.tuples(
    st.sampled_from(["write", "write", "write", "fail", "cancel"]), st.sets(st.sampled_from(list(FIELD_OF)), min_size=1)
)


def holding(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.tuples(st.sampled_from(KINDS), st.booleans(), st.lists(inner, min_size=1, max_size=3))


trees = st.tuples(
    st.sampled_from(KINDS), st.booleans(), st.lists(st.recursive(leaves, holding, max_leaves=6), min_size=1, max_size=3)
)


class Bench:
    """A tree on a State and a recording, and what its leaves and hooks found before they wrote."""

    def __init__(self, tree: Tree) -> None:
        self.found: list[tuple[str, Any]] = []
        self.ran = 0
        self.hooks: list[FunctionCallback] = []
        root = self.built(tree, "tree", ("run",))
        state, store = Values(), MemoryStore()
        assembly = assemble(Chain(tree=root), hooks_of(self.hooks), Values, state)
        recording = Recording(store)
        self.runner = Runner(assembly, state, recording)
        self.log = ChangeLog(store, recording)

    def note(self, state: Any, scopes: tuple[str, ...]) -> None:
        for scope in scopes:
            name = FIELD_OF[scope]
            self.found.append((name, getattr(state, name)))
            setattr(state, name, len(self.found))

    def built(self, tree: Tree, path: str, scopes: tuple[str, ...]) -> Any:
        kind, held = tree[0], tree[-1]
        if isinstance(kind, str):
            return self.leaf(kind, tuple(scope for scope in FIELD_OF if scope in held & {*scopes}), scopes[-1])
        inside = (*scopes, *(scope for scope in (kind.opens, kind.each) if scope))
        if tree[1]:
            around = tuple(dict.fromkeys((*scopes, *(scope for scope in (kind.opens,) if scope))))
            names = tuple(FIELD_OF[scope] for scope in around)
            options: Any = {"state": Values, "reads": tuple(f"{name}?" for name in names), "writes": names}
            for side in ("before", "after"):
                hook = Point(side, f"chain/{path}", options)(lambda state: self.note(state, around))  # type: ignore[arg-type]
                self.hooks.append(FunctionCallback(hook))
        return kind(**{f"s{n}": self.built(one, f"{path}/s{n}", inside) for n, one in enumerate(held)})

    def leaf(self, kind: str, scopes: tuple[str, ...], innermost: str) -> FunctionStage:
        names = tuple(FIELD_OF[scope] for scope in scopes)

        def run(state: Any) -> None:
            self.ran += 1
            self.note(state, scopes)
            if kind == "cancel" and self.ran % 2:
                raise Cancel(innermost)
            if kind == "fail" and self.ran % 3 == 1:
                raise ZeroDivisionError

        return FunctionStage(stage(state=Values, reads=tuple(f"{name}?" for name in names), writes=names)(run))


@settings(max_examples=300)
@given(tree=trees, parts=st.lists(st.integers(0, 99), max_size=4))
def test_value_before_a_write_is_what_the_writer_found(tree: Tree, parts: list[int]) -> None:
    bench = Bench(tree)
    paths = [path for path, node in bench.runner.nodes.items() if node.place.kind == "stage"]
    for part in (0, *parts):
        with suppress(ZeroDivisionError, StageError):
            bench.runner.run(paths[part % len(paths)])
    changes = [change for change in bench.log.changes() if change.kind not in ("open", "close")]
    told = [(c.field, None if c.before is ABSENT else c.before) for c in changes if c.field in FIELDS]
    assert told == bench.found
    assert list(bench.log.tail(20)) == changes[-20:]
