"""Own loop: everything that stands round a loop, for who writes the loop himself."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from stages.ancestors import scopes_above
from stages.batch import moved
from stages.cancel import OK, Cancel, Outcome
from stages.errors import Misuse
from stages.frame import Frame
from stages.notes import not_entered, noted
from stages.phases import TrainingPhase
from state.state import writer

if TYPE_CHECKING:
    from stages.node import Node
    from stages.runner import Runner


@contextmanager
def inside(runner: "Runner", path: str) -> Iterator[None]:
    """See `Runner.inside`."""
    node = runner.find(path)
    if node.round is None:
        raise Misuse(f"inside({path!r}) needs a loop such as 'fit'; {node.path} is none. Use run({path!r}).")
    is_entered = False
    with runner.running(None):
        chain = [runner.nodes[place.path] for place in node.place.ancestors()][::-1]
        with _bracket(runner, chain):
            is_entered = True
            yield
    if not is_entered:
        raise not_entered(node.path, runner.outcome)


def run_batch(runner: "Runner", batch: Any) -> Frame:
    """See `Runner.run_batch`."""
    loop = runner.entered or runner.nodes[_training_phase(runner)]
    if loop.round is None or loop.round.scope != "batch":
        told = "Enter the loop whose rounds are batches, by inside(path): a Window in it, say."
        raise Misuse(f"fit_batch() runs one batch, and a round of {loop.path} is another thing. {told}")
    if runner.entered is not None:
        if runner.round is loop.round:
            runner.refuse_if_running()
        return _round_on(runner, loop, batch)
    frame = Frame({})
    with runner.running(None), scopes_above(runner, loop), _bracket(runner, [loop]):
        frame = _round_on(runner, loop, batch)
    return frame


def _round_on(runner: "Runner", loop: "Node", batch: Any) -> Frame:
    """One round of a loop on `batch`: all its stages but `fetch`."""
    assert loop.round is not None
    frame, recording = Frame({}), runner.recording
    runner.scalars.compare_hyper()
    if runner.guard is not None:
        runner.guard.step_in(runner.external)
    device = runner.values.get("device")
    batch = batch if device is None else moved(batch, device)
    with loop.round:
        slot = None if recording is None else recording.slot("user", "write", "batch", "write")
        writer(runner.state, "batch", "user", recording, slot)(batch)
        for slot_name, child in loop.children.items():
            if slot_name != "fetch" and child.place.kind == "stage":
                child.execute()
        frame = runner.frame(lambda scope: scope == "batch")
    return frame


@contextmanager
def _bracket(runner: "Runner", chain: "list[Node]") -> Iterator[None]:
    """The nodes of `chain` round whatever runs inside, each in a round of the one before."""
    node, *below = chain
    error: BaseException | None = None
    is_entered = False
    node.started.clear()
    try:
        node.begin()
        with runner.mode(node):
            node.settle()
            if below:
                with node.round or nullcontext(), _bracket(runner, below):
                    is_entered = True
                    yield
            else:
                runner.entered = node
                try:
                    is_entered = True
                    yield
                except Cancel as signal:
                    raise noted(runner, signal, runner.user) from None
                finally:
                    runner.entered = None
        if node.place.has_own_code:
            node.settle()
    except BaseException as raised:
        error = raised
    node.end(error)
    if not is_entered:
        raise not_entered(chain[-1].path, OK if error is None else Outcome.of(error))


def _training_phase(runner: "Runner") -> str:
    places = runner.assembly.places
    phases = [place.path for place in places if place.kind == "stage" and isinstance(place.stage, TrainingPhase)]
    if len(phases) != 1:
        raise Misuse(f"fit_batch() needs one training phase; this tree has {phases}. Enter one by inside(path).")
    return phases[0]
