"""Bodies: the function that calls a stage's or hook's own code with what it reads and writes what it returns.

Each is built once, for one actor. Between the plan and a user's code stand one call of ours and no look-up.
"""

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from stages.cancel import OK, Exhausted, Outcome, forget
from stages.errors import ContractBroken
from stages.notes import noted
from stages.stage import Composite
from state.access import View
from state.errors import FieldNotReady

if TYPE_CHECKING:
    from stages.contract import Contract
    from stages.node import Actor, Node
    from stages.place import HookPlace
    from stages.runner import Runner

Body = Callable[[], None]
HookBody = Callable[[Outcome], None]


def stage_body(node: "Node") -> Body:
    """The function that runs the stage of one node, and tells the log of the parts it is there to change."""
    stage, place = node.stage, node.place
    if place.kind != "stage":
        return _nothing
    if isinstance(stage, Composite) and type(stage).run is Composite.run:
        return node.run_children
    from stages.node import StageView

    call = _call(node, stage.run, place.contract, StageView)
    is_inside_a_phase = place.phase is not None and place.phase is not stage  # a loop there lets the phase end
    if isinstance(stage, Composite) and stage.each is not None and not is_inside_a_phase:
        call = _until_exhausted(call)
    watched = _watched(node)
    if watched:
        call = _watching(call, watched)
    return _then(call, _tell_parts(node))


def children_body(node: "Node") -> Body:
    """The function that runs the stages a node holds, in order.

    What has no hook, scope or count of its own is called without going through its node, and a plain composite of such
    is run in its parent's place. Where stages are timed, every node is gone through.
    """
    runner = node.runner
    children = tuple(child for child in node.children.values() if child.place.kind == "stage")
    steps = tuple(_steps(children))

    def run_children() -> None:
        if runner.timed:
            for child in children:
                child.execute()
            return
        left: tuple[Node, ...] = ()
        try:
            for run, left in steps:  # noqa: B007  `left` is for the exception
                run()
        except BaseException as raised:
            error = raised
            for passed in left:
                error = passed.ended_by(error)
            if error is raised:
                raise
            raise error from None

    return run_children


def _steps(children: "Iterable[Node]") -> "Iterator[tuple[Body, tuple[Node, ...]]]":
    """What to call for each of these nodes, and whom an exception leaves that comes out of it."""
    for child in children:
        if not child.is_bare:
            yield child.execute, ()
        elif type(child.stage).run is Composite.run:
            inner = (below for below in child.children.values() if below.place.kind == "stage")
            yield from ((run, (*left, child)) for run, left in _steps(inner))
        else:
            yield child.body, (child,)


def hook_body(runner: "Runner", placed: "HookPlace") -> HookBody:
    """The function that runs one hook at one place, given how the stage ended."""
    from stages.node import Actor

    hook = placed.hook
    actor = Actor(runner, placed.path, placed.access, "hook", hook.contract.source)
    tell_parts = _tell_parts(actor)
    outcome: list[Outcome] = []
    inner = _call(actor, hook.call, hook.contract, View, outcome)
    watched = _watched(actor)
    if watched:
        inner = _watching(inner, watched)
    has_parts = bool(placed.access.part_writes)
    takes_outcome = any(parameter.name == "outcome" for parameter in hook.contract.parameters)
    needed = (placed.access.readable - placed.access.optional) & actor.known.keys()

    def run(how: Outcome) -> None:
        if takes_outcome:
            outcome[:] = [how]
        elif how is not OK and not runner.values.keys() >= needed:
            return  # the stage ended early, before there was what this hook reads
        try:
            inner()
        except BaseException as raised:
            if hook.observes and not takes_outcome and _is_gone(raised, how, actor):
                return
            error = noted(runner, raised, actor)
            if error is raised:
                raise
            raise error from None
        if has_parts:
            tell_parts()

    return _thinned(runner, placed, actor, run) if hook.is_thinned else run


def _thinned(runner: "Runner", placed: "HookPlace", actor: "Actor", run: HookBody) -> HookBody:
    """`run` in those rounds only that `every`, `first` and `when` leave."""
    hook = placed.hook
    every, first, when = hook.every, hook.first, hook.point.options.get("when")
    everything = runner.observer_view(actor.path)

    def run_sometimes(how: Outcome) -> None:
        if every is not None and runner.number_of(every.unit) % every.number:
            return
        if first is not None and runner.number_of(first.unit) > first.number:
            return
        try:
            is_wanted = when is None or when(everything)
        except FieldNotReady as raised:
            if not _is_gone(raised, how, actor):
                raise
            return
        if is_wanted:
            run(how)

    return run_sometimes


def _is_gone(raised: BaseException, how: Outcome, actor: "Actor") -> bool:
    """Whether a hook only missed a value that there would be, had the stage not ended early."""
    return how is not OK and isinstance(raised, FieldNotReady) and raised.actor == actor.path


def _call(
    actor: "Actor",
    function: Callable[..., Any],
    contract: "Contract",
    kind: type[View],
    outcome: list[Outcome] | None = None,
) -> Body:
    """Call `function` with the values of its parameters, and write what it returns."""
    if contract.takes_view or (outcome is not None and any(p.name == "outcome" for p in contract.parameters)):
        return _call_general(actor, function, contract, kind, [] if outcome is None else outcome)
    names = [parameter.name for parameter in contract.parameters]
    values, store = actor.runner.values, _store(actor)
    if any(parameter.optional for parameter in contract.parameters):
        get = values.get
        sure = [parameter.name for parameter in contract.parameters if not parameter.optional]
        optional = [parameter.name for parameter in contract.parameters if parameter.optional]

        def call_optional() -> None:
            given = {}
            try:
                for name in sure:
                    given[name] = values[name]
            except KeyError:
                raise actor.not_ready(name) from None
            for name in optional:
                given[name] = get(name)
            store(function(**given))

        return call_optional
    if not names:
        return lambda: store(function())
    if len(names) == 1:
        (name,) = names

        def call_one() -> None:
            try:
                value = values[name]
            except KeyError:
                raise actor.not_ready(name) from None
            store(function(value))

        return call_one
    take = itemgetter(*names)

    def call_many() -> None:
        try:
            given = take(values)
        except KeyError as missing:
            raise actor.not_ready(missing.args[0]) from None
        store(function(*given))

    return call_many


def _call_general(
    actor: "Actor", function: Callable[..., Any], contract: "Contract", kind: type[View], outcome: list[Outcome]
) -> Body:
    """Call a function that takes the view, or the outcome."""
    view = actor.view(kind)
    object.__setattr__(view, "_owner", actor)
    values, specs = actor.runner.values, actor.known
    # what it writes into its own rounds has ended with them
    promised = [name for name in actor.access.field_writes if specs[name].scope != actor.each]
    store = _store(actor)
    parameters = contract.parameters
    is_observer, takes_view = actor.access.observer, contract.takes_view

    def give(name: str, optional: bool) -> Any:
        if name == "state":
            return view
        if name == "outcome":
            return outcome[0]
        return values.get(name) if optional else _value(actor, name)

    is_view_alone = [parameter.name for parameter in parameters] == ["state"]
    written = view._written

    def call() -> None:
        if written:
            written.clear()
        if is_view_alone:
            result = function(view)
        else:
            result = function(*[give(parameter.name, parameter.optional) for parameter in parameters])
        if is_observer:
            return
        if result is not None or not takes_view:
            store(result)
        for name in promised:
            if name not in values:
                raise ContractBroken(actor.path, f"declares that it writes {name!r} and ended without a value there.")

    return call


def _value(actor: "Actor", name: str) -> Any:
    try:
        return actor.runner.values[name]
    except KeyError:
        raise actor.not_ready(name) from None


def _store(actor: "Actor") -> Callable[[Any], None]:
    """The function that writes what was returned to the fields of `writes`, in order."""
    names = actor.access.field_writes
    writers = tuple(actor.writers[name] for name in names)
    if not names:

        def refuse(result: Any) -> None:
            if result is not None:
                told = "Declare the field in writes, or return nothing."
                raise ContractBroken(
                    actor.path, f"returned {type(result).__name__}, but declares no field that it writes. {told}"
                )

        return refuse
    if len(names) == 1:
        return writers[0]

    def unpack(result: Any) -> None:
        if type(result) is not tuple or len(result) != len(writers):
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise ContractBroken(
                actor.path, f"writes {list(names)} and so returns a tuple of {len(names)}; it returned {got}."
            )
        for write, value in zip(writers, result, strict=True):
            write(value)

    return unpack


def _tell_parts(actor: "Actor") -> Body:
    """The function that tells the log that the parts were changed: inferred from the declaration and a good end."""
    recording = actor.runner.recording
    slots = [actor.slot("write", name, "inferred") for name in actor.access.part_writes if not _is_scalar(name)]
    told = [slot for slot in slots if slot is not None]
    if recording is None or not told:
        return _nothing
    put, rows = recording.pen(told[0])[0], tuple(value for slot in told for value in (slot, None))
    return lambda: put(rows)


def _then(call: Body, tell_parts: Body) -> Body:
    """Both, one after the other."""
    if tell_parts is _nothing:
        return call

    def run_and_tell() -> None:
        call()
        tell_parts()

    return run_and_tell


def _watched(actor: "Actor") -> list[tuple["Actor", str, str]]:
    """The parts made of plain values that an actor writes: (actor, component, part)."""
    if actor.runner.recording is None:
        return []
    pairs = dict.fromkeys(tuple(name.split(".")[:2]) for name in actor.access.part_writes if _is_scalar(name))
    return [(actor, owner, part) for owner, part in pairs]


def _watching(call: Body, watched: list[tuple["Actor", str, str]]) -> Body:
    """`call`, with a row in the log for each plain value of a part that is another one afterwards, however it ends."""

    def compare() -> None:
        for actor, owner, part in watched:
            actor.runner.scalars.compare(owner, part)
        try:
            call()
        finally:
            for actor, owner, part in watched:
                actor.runner.scalars.compare(owner, part, actor.path)

    return compare


def _is_scalar(name: str) -> bool:
    """Whether a part is made of plain values, which can be compared: `optimizer.hyper`, `model.mode`."""
    return name.split(".")[1] in ("hyper", "mode")


def _until_exhausted(call: Body) -> Body:
    """A loop ends well when its loader has no further batch."""

    def loop() -> None:
        try:
            call()
        except Exhausted as end:
            forget(end)

    return loop


def _nothing() -> None:
    """The body of a place without a stage."""
