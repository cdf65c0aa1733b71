"""Calling: a user's function with the values it reads, and what it returns written where it belongs.

Each call is built once, for one actor. Between the plan and a user's code stand one call of ours and no look-up.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from stages.cancel import Outcome
from stages.errors import ContractBroken
from state.access import View

if TYPE_CHECKING:
    from stages.actor import Actor
    from stages.contract import Contract

Body = Callable[[], None]


def call_of(
    actor: "Actor",
    function: Callable[..., Any],
    contract: "Contract",
    kind: type[View],
    outcome: list[Outcome] | None = None,
) -> Body:
    """Call `function` with the values of its parameters, and write what it returns."""
    if contract.takes_view or (outcome is not None and any(p.name == "outcome" for p in contract.parameters)):
        return _call_general(actor, function, contract, kind, [] if outcome is None else outcome)
    called = actor.names
    names = [called.get(parameter.name, parameter.name) for parameter in contract.parameters]
    values, store = actor.runner.values, _store(actor)
    sure = names[: sum(not parameter.optional for parameter in contract.parameters)]  # those with a default come last
    if len(sure) < len(names):
        get, optional = values.get, names[len(sure) :]

        def call_optional() -> None:
            try:
                given = [values[name] for name in sure]
            except KeyError as missing:
                raise actor.not_ready(missing.args[0]) from None
            store(function(*given, *map(get, optional)))

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
    values, specs = actor.runner.values, actor.known
    # what it writes into its own rounds has ended with them
    sure = (name for name in actor.access.field_writes if name not in actor.access.unsure)
    promised = [name for name in sure if specs[name].scope != actor.each]
    store = _store(actor)
    parameters = contract.parameters
    is_observer, takes_view = actor.access.observer, contract.takes_view

    def give(name: str, optional: bool) -> Any:
        if name == "state":
            return view
        if name == "outcome":
            return outcome[0]
        field = actor.names.get(name, name)
        return values.get(field) if optional else _value(actor, field)

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
        for name in promised if not outcome or outcome[0].ok else ():  # after a stage that ended early nothing is owed
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
    pairs = zip(names, actor.pens, strict=True)
    writers = tuple(_if_any(write) if name in actor.access.unsure else write for name, write in pairs)
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


def _if_any(write: Callable[[Any], None]) -> Callable[[Any], None]:
    """Write what there is, and nothing for None."""
    return lambda value: None if value is None else write(value)
