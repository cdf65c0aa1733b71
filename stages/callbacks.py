"""Callbacks: hooks before, after and around the slots of a tree, each with its own declared access."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar, Literal, Self, TypedDict, Unpack

from stages.binding import bound_copy
from stages.contract import Contract, hook_contract
from stages.counts import Count
from stages.errors import DeclarationError
from stages.freezing import refuse_if_bound
from stages.phases import Phase
from state.errors import nearest, short, suggestion
from state.schema import Brought

Side = Literal["before", "around", "after"]
Declared = Iterable[str] | Callable[[Any], Iterable[str]]


class Options(TypedDict, total=False):
    """What `before`, `after` and `around` take beside the target.

    state: the State class whose fields the hook needs, when it does not take `state` itself.
    reads, writes, touches: as in Stage, or a function of the callback that gives them.
    restores: for `around`: parts that it changes and then gives back, bit for bit, however the stage ends.
    unsafe: it may read and change everything, undeclared; everything is logged, and it shows in red.
    within: a phase class or a path: only places inside it.
    every, first: thin the hook out: every="100 batches" runs in the rounds whose number in the run, from 1, is a
        multiple; first="3 batches" in the first three. Units: batches, updates, epochs.
    when: thin it out by a function of the state.
    runs_before, runs_after: callbacks (classes or names, which may be absent) it goes before or after.
    """

    state: type | None
    reads: Declared
    writes: Declared
    touches: Declared
    restores: Declared
    unsafe: bool
    within: str | type | None
    every: str | None
    first: str | None
    when: Callable[[Any], object] | None
    runs_before: tuple[type | str, ...]
    runs_after: tuple[type | str, ...]


@dataclass(frozen=True)
class Point:
    """Where a hook stands and what it may do; a decorator for methods of a Callback and for functions."""

    side: Side
    target: str | type
    options: Options

    def __call__(self, function: "Callable[..., Any] | HookMethod") -> "HookMethod":
        if isinstance(function, HookMethod):
            return HookMethod(function.function, (self, *function.points))
        return HookMethod(function, (self,))


def before(target: str | type, **options: Unpack[Options]) -> Point:
    """Hook a method or function before the slots that `target` names: "update", "critic/update", or a phase class."""
    return Point("before", target, options)


def after(target: str | type, **options: Unpack[Options]) -> Point:
    """Hook a method or function after the slots that `target` names: it runs once for each, whatever the outcome.

    Example:
        >>> from learner import Callback, after
        >>> class Losses(Callback):
        ...     def __init__(self):
        ...         self.seen = []
        ...
        ...     @after("update", every="100 batches")
        ...     def note(self, state):
        ...         self.seen.append(float(state.loss))
    """
    return Point("after", target, options)


def around(target: str | type, **options: Unpack[Options]) -> Point:
    """Hook a generator around the slots of `target`: what stands before `outcome = yield` runs ahead of the stage, the
    rest after it, whatever the outcome; nothing is ever thrown into it.

    Example:
        >>> from learner import Callback, around
        >>> class Frozen(Callback):
        ...     @around("validate", restores=("model.mode",))
        ...     def freeze(self, model):
        ...         flags = [parameter.requires_grad for parameter in model.parameters()]
        ...         model.requires_grad_(False)
        ...         outcome = yield
        ...         for parameter, flag in zip(model.parameters(), flags):
        ...             parameter.requires_grad_(flag)
    """
    return Point("around", target, options)


class HookMethod:
    """A function with the points it is hooked to. On a callback it is a method as any other."""

    def __init__(self, function: Callable[..., Any], points: tuple[Point, ...]) -> None:
        self.function = function
        self.points = points
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        if not issubclass(owner, Callback):
            told = "Hooks are methods of a Callback; derive from it."
            raise DeclarationError(owner.__name__, f"{name} is a hook, but {owner.__name__} is no Callback. {told}")
        owner.own_hooks = {**owner.__dict__.get("own_hooks", {}), name: self}

    def __get__(self, callback: Any, owner: type | None = None) -> Any:
        return self if callback is None else MethodType(self.function, callback)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Callback:
    """One or more hooks that belong together. Decorate its methods with `before`, `after` and `around`.

    Its settings are frozen once it is bound to a Learner: what changes during a run belongs into State, where it is
    logged and saved. A callback all of whose hooks are observers may keep what it likes.

    A subclass has the hooks of all its bases; a method that it overrides stands where the one of the base stood, with
    the same access, unless it is decorated anew. `name = None` takes a hook out.
    """

    own_hooks: ClassVar[dict[str, HookMethod]] = {}

    def fields(self) -> Brought:
        """Fields it brings: name -> (type, default or `field(...)`); `{phase}` in a name is the phase's word."""
        return {}

    def hooks(self) -> "list[tuple[str, HookMethod]]":
        """Its hooks by method name, in the order of their definition, those of the bases first."""
        owners = reversed(type(self).__mro__)
        declared = {name: hook for owner in owners for name, hook in owner.__dict__.get("own_hooks", {}).items()}
        found = [(name, hook, inspect.getattr_static(self, name)) for name, hook in declared.items()]
        return [
            (name, now if isinstance(now, HookMethod) else HookMethod(now, hook.points))
            for name, hook, now in found
            if now is not None
        ]

    def bind(self, /, **names: str) -> Self:
        """A copy that works on other fields, "my name = State's name": `EMA().bind(model="critic", ema="slow")`."""
        return bound_copy(self, names)

    def within(self, place: str | type) -> Self:
        """A copy that stands only inside a place: `Schedule(...).within("critic")`, by path or phase class."""
        _refuse_target(type(self).__name__, "stands within", place)
        made = bound_copy(self, {})
        made.__dict__["_within"] = place
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_if_bound(self, name)
        super().__setattr__(name, value)


class FunctionCallback(Callback):
    """A callback of one function."""

    def __init__(self, function: HookMethod) -> None:
        super().__setattr__("hook", function)

    def hooks(self) -> list[tuple[str, HookMethod]]:
        return [("", self.__dict__["hook"])]


@dataclass(frozen=True)
class Hook:
    """One hook of one callback object, ready to be placed.

    Attributes:
        name: "ClipGradients.clip", unique in the Learner.
        rank: its place in the order of registration.
        group: (number of the tuple in callbacks=, place in it), or None.
    """

    callback: Callback
    name: str
    call: Callable[..., Any]
    point: Point
    contract: Contract
    rank: int
    group: tuple[int, int] | None
    every: Count | None
    first: Count | None

    @property
    def is_thinned(self) -> bool:
        """Whether it runs only in some rounds."""
        return self.every is not None or self.first is not None or self.point.options.get("when") is not None

    @property
    def observes(self) -> bool:
        """Whether it declares nothing and reads everything."""
        return self.contract.access.observer


def hooks_of(callbacks: Iterable[Any]) -> list[Hook]:
    """The hooks of `callbacks`, in the order of registration; a tuple among them declares its order.

    Raises:
        DeclarationError: something is no callback, one object stands twice, or a declaration cannot be used.
    """
    found: list[Hook] = []
    names: dict[str, int] = {}
    seen: set[int] = set()
    for number, given in enumerate(callbacks):
        members = given if isinstance(given, tuple) else (given,)
        for place, member in enumerate(members):
            callback = as_callback(member)
            if id(callback) in seen:
                raise DeclarationError(type(callback).__name__, "stands twice in callbacks=. Give each its own object.")
            seen.add(id(callback))
            title = title_of(callback)
            names[title] = names.get(title, 0) + 1
            unique = title if names[title] == 1 else f"{title}_{names[title]}"
            group = (number, place) if isinstance(given, tuple) else None
            for method, hook in callback.hooks():
                for point in hook.points:
                    found.append(_hook(callback, unique, method, hook, point, len(found), group))
    return found


def as_callback(given: Any) -> Callback:
    """`given` as a callback: itself, or a function decorated by `before` or `after` wrapped.

    Raises:
        DeclarationError: it is neither.
    """
    if isinstance(given, Callback):
        return given
    if isinstance(given, HookMethod):
        return FunctionCallback(given)
    if isinstance(given, type) and issubclass(given, Callback):
        raise DeclarationError("callbacks", f"got the class {given.__name__}. Give an object: {given.__name__}(...).")
    told = "Derive from Callback, or decorate a function with @after(...)."
    raise DeclarationError("callbacks", f"got {given!r}, which is no callback. {told}")


def title_of(callback: Callback) -> str:
    """The name of a callback in paths: of its class, or of its function."""
    if isinstance(callback, FunctionCallback):
        name: str = getattr(callback.__dict__["hook"].function, "__name__", "hook")
        return name.strip("<>")
    return type(callback).__name__


def _hook(
    callback: Callback,
    unique: str,
    method: str,
    hook: HookMethod,
    point: Point,
    rank: int,
    group: tuple[int, int] | None,
) -> Hook:
    name = f"{unique}.{method}" if method else unique
    options = point.options
    for option in options:
        if option not in Options.__annotations__:
            known = sorted(Options.__annotations__)
            near = suggestion(nearest(option, known))
            raise DeclarationError(name, f"{option!r} is no option of a hook. It takes {known}.{near}")
    for which in ("runs_before", "runs_after"):
        given = options.get(which, ())
        if isinstance(given, str | type):
            shown = given.__name__ if isinstance(given, type) else repr(given)
            told = f"Write {which}=({shown},), with the comma."
            raise DeclarationError(name, f"{which}={shown} is no tuple. {told}")
    _refuse_target(name, "stands " + point.side, point.target)
    if options.get("within") is not None:
        _refuse_target(name, "stands within", options["within"])
    when = options.get("when")
    if when is not None and not callable(when):
        told = "It wants a function of the state: when=lambda state: state.updates > 100."
        raise DeclarationError(name, f"when={short(when)} cannot be called. {told}")
    declared = {which: _given(options.get(which, ()), callback) for which in ("reads", "writes", "touches", "restores")}
    facts = {**declared, "unsafe": options.get("unsafe", False)}
    contract = hook_contract(name, hook.function, point.side, facts, options.get("state"), method=bool(method))
    call = MethodType(hook.function, callback) if method else hook.function
    every, first = options.get("every"), options.get("first")
    return Hook(
        callback,
        name,
        call,
        point,
        contract,
        rank,
        group,
        Count.parse(every, name) if every is not None else None,
        Count.parse(first, name) if first is not None else None,
    )


def _refuse_target(name: str, stands: str, target: object) -> None:
    """Refuse what names no slot.

    Raises:
        DeclarationError: it is neither text nor a phase class.
    """
    if isinstance(target, str) or (isinstance(target, type) and issubclass(target, Phase)):
        return
    told = "Name a slot or a path, such as 'update' or 'fit/batch': then a swap of the stage there does not unhook it."
    shown = target.__name__ if isinstance(target, type) else repr(target)
    raise DeclarationError(name, f"{stands} {shown}, which is neither text nor a class of phases. {told}")


def _given(declared: Any, callback: Callback) -> Iterable[str]:
    """Declared names, also where a function of the callback gives them."""
    names: Iterable[str] = declared(callback) if callable(declared) else declared
    return names
