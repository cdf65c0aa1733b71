"""State: the validated record of a run, and the one function that writes a field of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from state.errors import FieldNotReady, InvalidValue, SchemaError, StateError, UnknownField, short
from state.fields import MISSING, FieldSpec, Invariant
from state.recording import Recording

_OURS = ("components", "log", "outcome", "ready", "rng", "round", "stage", "state", "values_of")


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
        SchemaError: when a subclass declares a reserved name, assignment validation or a model validator.
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

    @classmethod
    def __pydantic_init_subclass__(cls, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)
        if cls.model_config.get("validate_assignment"):
            raise SchemaError(f"{cls.__name__} sets validate_assignment. Remove it: State checks every write itself.")
        if cls.__pydantic_decorators__.model_validators:
            names = ", ".join(sorted(cls.__pydantic_decorators__.model_validators))
            told = "would run on fields that are not ready. Use @invariant(...) for a rule between fields."
            raise SchemaError(f"{cls.__name__} has a model_validator ({names}), which {told}")
        cls.specs = {name: _spec(cls, name) for name in cls.model_fields}
        rules: dict[str, tuple[Invariant, ...]] = {}
        for owner in reversed(cls.__mro__):
            for rule in owner.__dict__.get("own_invariants", ()):
                for name in rule.names:
                    if name not in cls.specs:
                        raise UnknownField(name, cls.specs, who=f"{rule.title}: State")
                    rules[name] = (*rules.get(name, ()), rule)
        cls.invariants = rules

    def __init__(self, **values: Any) -> None:
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
        for rule in {rule for rules in cls.invariants.values() for rule in rules}:
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
        slot = recording.slot("user", "write", name, "write") if recording else None
        writer(self, name, "user", recording, slot)(value)

    def __delattr__(self, name: str) -> None:
        raise StateError(
            f"{name!r} cannot be deleted from State. A scoped field loses its value when its scope closes."
        )

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

    There is no other way into State. One is made per actor and field, so that a write costs no look-up.
    """
    spec, rules = type(state).specs[name], type(state).invariants.get(name, ())
    values = state.__dict__
    number = -1 if slot is None else slot
    tell = recording.write if recording is not None and slot is not None else None
    accepted: type | None = None  # the exact type that needs no further check

    def write(value: Any) -> None:
        nonlocal accepted
        if type(value) is not accepted:
            value = spec.validate(value, actor)
            if spec.is_plain and not rules:
                accepted = type(value)
        if rules:
            _assign_under(rules, state, name, value, actor)
        else:
            values[name] = value
        if tell is not None:
            tell(number, value)

    return write


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
    if name in _OURS or (hasattr(BaseModel, name) and not name.startswith("__")):
        whose = "of State" if name in _OURS else "of pydantic"
        raise SchemaError(f"{owner} declares {name!r}, a reserved name {whose}. Call it '{name}_value', say.")


def _spec(cls: type[State], name: str) -> FieldSpec:
    """The spec of a field; its owner is the class that declares it, so that a conflict can name it."""
    owner = next(c for c in cls.__mro__ if name in c.__dict__.get("__annotations__", ()))
    inherited = next((c.specs[name] for c in cls.__mro__[1:] if issubclass(c, State) and name in c.specs), None)
    if inherited is not None and owner is not cls:
        return inherited
    return FieldSpec.of(name, cls.model_fields[name], owner.__name__)
