"""State: the validated record of a run, and the one function that writes a field of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from torch import Tensor

from state.errors import FieldNotReady, InvalidValue, SchemaError, StateError, UnknownField, short
from state.fields import MISSING, FieldSpec, Invariant, fresh
from state.recording import Recording
from state.sources import caller
from state.summaries import PLAIN

_OURS = ("declared", "end_after_round", "log", "outcome", "rng", "round_number", "state", "take_back")
"""Beside what State and pydantic's BaseModel define."""
_OPEN_CONFIG = {"title", "use_attribute_docstrings"}

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Link:
    """What a State knows of the Learner it is bound to."""

    owner: Callable[[], object | None]
    recording: Recording | None
    explain: Callable[[str], str]


class State(BaseModel):
    """The record that stages and callbacks work on. Subclass it to declare fields.

    A field has a type, which every write is checked against, and a scope, outside of which it has no value: reading it
    then is a `FieldNotReady`, never a stale value. Fields are declared as in any pydantic model, or by `field(...)`.

    Example:
        >>> from torch import Tensor, tensor
        >>> from state import State, field
        >>> class Counted(State):
        ...     updates: int = 0
        ...     loss: Tensor = field(scope="batch", description="scalar")
        >>> state = Counted()
        >>> state.ready("loss")
        False
        >>> state.loss = tensor(0.5)
        >>> state.loss
        tensor(0.5000)

    Raises:
        SchemaError: when a subclass declares a reserved name, a configuration or a validator of its own.
        UnknownField, InvalidValue: when an instance is given a name or a value that no field takes.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", ignored_types=(Invariant,), protected_namespaces=()
    )
    own_invariants: ClassVar[tuple[Invariant, ...]] = ()
    specs: ClassVar[Mapping[str, FieldSpec]] = {}
    invariants: ClassVar[Mapping[str, tuple[Invariant, ...]]] = {}

    _link: Link | None = PrivateAttr(default=None)

    def __init_subclass__(cls, **config: Any) -> None:
        super().__init_subclass__(**config)
        for name in cls.__dict__.get("__annotations__", ()):
            refuse_reserved(name, cls.__name__)
        fields = {name for base in cls.__mro__[1:] if issubclass(base, State) for name in base.specs}
        for name in fields & cls.__dict__.keys() - cls.__dict__.get("__annotations__", {}).keys():
            _refuse_attribute(cls, name)

    @classmethod
    def __pydantic_init_subclass__(cls, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)
        _refuse_own_ways(cls)
        for name in cls.model_fields:
            if hasattr(cls, name):
                _refuse_attribute(cls, name)
        cls.specs = {name: _spec(cls, name) for name in cls.model_fields}
        rules: dict[str, tuple[Invariant, ...]] = {}
        for owner in reversed(cls.__mro__):
            for rule in owner.__dict__.get("own_invariants", ()):
                if getattr(cls, rule.name) is not rule:  # a subclass states it anew
                    continue
                for name in rule.names:
                    if name not in cls.specs:
                        raise UnknownField(name, cls.specs, who=f"{rule.title}: State")
                    rules[name] = (*rules.get(name, ()), rule)
        cls.invariants = rules

    def __init__(self, /, **values: Any) -> None:
        cls = type(self)
        for name in values:
            if name not in cls.model_fields:
                raise UnknownField(name, cls.model_fields, who=cls.__name__)
        for name, value in values.items():
            cls.specs[name].validate(value, cls.__name__)
        try:
            super().__init__(**values)
        except ValidationError as error:
            absent = sorted(str(problem["loc"][0]) for problem in error.errors() if problem["type"] == "missing")
            if not absent:
                raise InvalidValue("state", cls.__name__, values, str(error)) from None
            told = "Pass it, or declare it with field() if it comes later."
            raise InvalidValue(absent[0], cls.__name__, MISSING, f"{cls.__name__} needs {absent}. {told}") from None
        for name in [name for name, value in self.__dict__.items() if value is MISSING]:
            del self.__dict__[name]
        for name, value in self.__dict__.items():
            if name not in values and isinstance(value, Tensor):  # pydantic copies lists, not tensors
                self.__dict__[name] = fresh(value)
        for rule in dict.fromkeys(rule for rules in cls.invariants.values() for rule in rules):
            if all(self.ready(name) for name in rule.names):
                rule.check(self, rule.names[0], cls.__name__)

    def ready(self, name: str) -> bool:
        """Whether field `name` has a value now.

        Raises:
            UnknownField: there is no such field.
        """
        if name not in type(self).specs:
            raise UnknownField(name, type(self).specs)
        return name in self.__dict__

    def components(self, kind: type[Kind]) -> dict[str, Kind]:
        """The values that are a `kind` now, by field: `state.components(nn.Module)`. In a view, the declared ones."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, kind)}

    def values_of(self, scope: str) -> dict[str, Any]:
        """The values that fields of `scope` have now, by field. In a view, the declared ones."""
        specs = type(self).specs
        return {name: value for name, value in self.__dict__.items() if specs[name].scope == scope}

    def round(self) -> AbstractContextManager[None]:
        """Inside a loop's `run`: one round of it. Opens the loop's scope and takes the Cancel of that scope."""
        raise StateError("round() belongs into the run of a stage that has `each`. There `state` is a view of State.")

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Inside a stage's `run`: an inline stage. `name` stands in the stage's `inline`."""
        raise StateError(
            "stage() belongs into the run of a stage that lists `inline`. There `state` is a view of State."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)  # type: ignore[misc]  # pydantic defines it at run time only
        if name not in type(self).specs:
            raise UnknownField(name, type(self).specs)
        link = self._link
        raise FieldNotReady(name, "user", link.explain(name) if link else "Set it first.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        if name not in type(self).specs:
            raise UnknownField(name, type(self).specs)
        recording = self._link.recording if self._link else None
        slot = recording.slot("user", "write", name, "write", caller()) if recording else None
        writer(self, name, "user", recording, slot)(value)

    def __delattr__(self, name: str) -> None:
        raise StateError(
            f"{name!r} cannot be deleted from State. A scoped field loses its value when its scope closes."
        )

    def __copy__(self) -> Self:
        """A copy is bound to no Learner: what is written to it is on nobody's record."""
        made = super().__copy__()
        made._link = None
        return made

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo[id(self._link)] = None
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**(state["__pydantic_private__"] or {}), "_link": None}}

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        for name in type(self).specs:
            if name in self.__dict__:
                yield name, _Text(short(self.__dict__[name], 40))


class _Text(str):
    """A string that is its own repr."""

    def __repr__(self) -> str:
        return str(self)


def writer(state: State, name: str, actor: str, recording: Recording | None, slot: int | None) -> Callable[[Any], None]:
    """The function by which `actor` writes field `name`: refuse, assign, then tell the log.

    No actor has another way into State; besides, loops count their rounds, and scopes give their fields defaults. One
    is made per actor and field, so that a write costs no look-up.
    """
    spec, rules = type(state).specs[name], type(state).invariants.get(name, ())
    values = state.__dict__
    accepted: type | None = None  # the exact type that needs no further check
    checked: type | None = None  # an exact type that needs its constraints checked (`ge=0`), nothing else
    check: Callable[[Any], Any] = _as_it_is
    is_told = recording is not None and slot is not None
    if recording is not None and slot is not None:
        put, plain, summary = recording.pen(slot)

    def write(value: Any) -> None:
        nonlocal accepted, checked, check
        kind = type(value)
        if kind is checked:
            try:
                value = check(value)
            except ValidationError:
                spec.validate(value, actor)  # says what is wrong
        elif kind is not accepted:
            value = spec.validate(value, actor)
            if spec.is_plain and not rules:
                accepted = type(value)
            elif kind in PLAIN:
                checked, check = kind, spec.adapter.validator.validate_python
        row = (slot, value if type(value) in plain else summary(value)) if is_told else None
        if rules:
            _assign_under(rules, state, name, value, actor)
        else:
            values[name] = value
        if row is not None:
            put(row)  # between the assignment and the end of this the interpreter looks at no signal

    return write


def _as_it_is(value: Any) -> Any:
    return value


def _assign_under(rules: tuple[Invariant, ...], state: State, name: str, value: Any, actor: str) -> None:
    """Assign, and take it back if an invariant refuses the new value."""
    values = state.__dict__
    before = values.get(name, MISSING)
    values[name] = value
    try:
        for rule in rules:
            if all(other in values for other in rule.names):
                rule.check(state, name, actor)
    except BaseException:
        if before is MISSING:
            del values[name]
        else:
            values[name] = before
        raise


def refuse_reserved(name: str, owner: str) -> None:
    """Refuse a field name that we or pydantic need.

    Raises:
        SchemaError: with a name to use instead.
    """
    if name.startswith("_"):
        raise SchemaError(
            f"{owner} declares {name!r}. A field's name does not begin with '_'. Call it {name.strip('_')!r}."
        )
    if name in _OURS or hasattr(State, name):
        whose = "of pydantic" if hasattr(BaseModel, name) else "of State"
        raise SchemaError(f"{owner} declares {name!r}, a reserved name {whose}. Call it '{name}_value', say.")
    if not name.isidentifier() or iskeyword(name):
        told = "A field's name is a parameter's name, so a Python identifier."
        raise SchemaError(f"{owner} declares {name!r}. {told}")


def _refuse_attribute(cls: type[State], name: str) -> None:
    """Refuse a method or a default of the class that would be found where the field has no value."""
    told = "is a field and an attribute of one name. Rename the attribute; a field needs its type in a State class."
    raise SchemaError(f"{cls.__name__}.{name} {told}")


def _refuse_own_ways(cls: type[State]) -> None:
    """Refuse what pydantic would do at construction only, or to fields that are not ready.

    Raises:
        SchemaError: naming it and what to use instead.
    """
    changed = {key for key, value in cls.model_config.items() if State.model_config.get(key, MISSING) != value}
    if changed - _OPEN_CONFIG:
        told = f"sets {', '.join(sorted(changed - _OPEN_CONFIG))} in its configuration"
        raise SchemaError(f"{cls.__name__} {told}. Remove it: State checks every write itself, field by field.")
    found = cls.__pydantic_decorators__
    if found.model_validators:
        names = ", ".join(sorted(found.model_validators))
        told = "would run on fields that are not ready. Use @invariant(...) for a rule between fields."
        raise SchemaError(f"{cls.__name__} has a model_validator ({names}), which {told}")
    if found.field_validators or found.validators:
        names = ", ".join(sorted({**found.field_validators, **found.validators}))
        told = "would not run on writes. Use a constraint, Annotated[..., AfterValidator(...)] or @invariant(...)."
        raise SchemaError(f"{cls.__name__} has a field_validator ({names}), which {told}")


def _spec(cls: type[State], name: str) -> FieldSpec:
    """The spec of a field; its owner is the class that declares it, so that a conflict can name it."""
    owner = next(c for c in cls.__mro__ if name in c.__dict__.get("__annotations__", ()))
    if owner is not cls and issubclass(owner, State) and not cls.__pydantic_generic_metadata__["args"]:
        return owner.specs[name]
    return FieldSpec.of(name, cls.model_fields[name], owner.__name__)
