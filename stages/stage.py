"""Stage: logic that takes one state to the next; Composite: a stage that holds stages."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

from stages.binding import bound_copy
from stages.declared import flag_in, names_in, scope_in
from stages.errors import DeclarationError, Misuse
from stages.freezing import refuse_if_bound
from stages.slots import find_one, slot_name, snake_case
from state.errors import a_kind, nearest, suggestion
from state.schema import Brought

Function = TypeVar("Function", bound=Callable[..., Any])


class Stage(ABC):
    """A piece of plain PyTorch with a declaration of what it reads and writes.

    The parameters of `run` are the fields it reads; what it returns is written to the fields of `writes`, in order. A
    parameter called `state` asks for a view of State instead, which knows the declared names only. Settings belong into
    the constructor (a frozen dataclass is the easy way) and are frozen once the stage is bound to a Learner: what
    changes during a run belongs into State.

    Attributes:
        reads: further fields and parts it uses; `name?` is None when not ready.
        writes: fields it will have written when it ends well, and parts (`model.params`) it is there to change. `name?`
            is a field that it leaves as it is where it has nothing to write, as a mean over no batches.
        touches: parts that may change in place on the way; `loss_fn.buffers?` if there is such a part.
        restores: parts that are another while it runs, and afterwards are what they were before.
        spoils: parts that are of no use after it until somebody writes them anew, such as scaled gradients.
        inline: names it enters by `with state.stage(name)`.
        opens: a scope that is open while it runs, hooks included.
        unsafe: it may read and change everything, undeclared; everything is logged, and it shows in red. A composite
            frees the stages and hooks inside it.
        slot: the name of its place, unless its parent gives another; by default its class name in snake case.

    Example:
        >>> from learner import Stage
        >>> class Scale(Stage):
        ...     writes = ("inputs",)
        ...
        ...     def run(self, inputs):
        ...         return inputs / 255
    """

    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()
    touches: ClassVar[tuple[str, ...]] = ()
    restores: ClassVar[tuple[str, ...]] = ()
    spoils: ClassVar[tuple[str, ...]] = ()
    inline: ClassVar[tuple[str, ...]] = ()
    opens: ClassVar[str | None] = None
    unsafe: ClassVar[bool] = False
    slot: ClassVar[str] = ""

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work, once."""

    def fields(self) -> Brought:
        """Fields this stage brings, besides those of the class `state` is annotated with: name -> (type, default)."""
        return {}

    def bind(self, /, **names: str) -> Self:
        """A copy that works on other fields: `Update().bind(model="critic", updates="critic_updates")`.

        Reads "my name = State's name". It covers parameters, parts (`model.grads` becomes `critic.grads`) and fields
        that the stage brings; of a composite, all stages below it, where the inner bind of a name wins.
        """
        return bound_copy(self, names)

    def __call__(self, state: Any) -> None:
        """Run this stage as a child, from the `run` of the composite that holds it.

        Raises:
            Misuse: `state` is no view of such a composite (a hook, a plain State).
        """
        run_child = getattr(state, "_run_child", None)
        if run_child is None:
            raise not_run_here(self, state)
        run_child(self)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_if_bound(self, name)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """What `copy` and `pickle` take: the settings. A copy is bound to no Learner."""
        return {name: value for name, value in vars(self).items() if name != "_bound"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Composite(Stage):
    """A stage that runs the stages it holds, in order.

    Args:
        stages: stages in order; each fills the slot of its own name. Functions made by `@stage` are stages too.
        forbids: fields and parts that nothing inside may write, such as "generator.params".
        each, opens, unsafe: as the attributes of the class, for this object.
        slots: stages whose slot is the keyword, after the positional ones.

    `copy.deepcopy(tree)` is a tree of its own, of the same structure and bound to no Learner.

    Attributes:
        stages: slot -> stage, in order.
        each: the scope that every round of a loop opens (see `state.round()`), or None.
        runs: how often the held stages run, for the check: "1", "0-1", "1+" or "0+".
        counts: (position, total): a field that tells the round from 0, and one that counts the rounds of the run;
            (None, None) where there is none.

    Raises:
        DeclarationError: two stages with one slot, one object twice, something that is no stage, or a setting that
            cannot be one.
    """

    forbids: ClassVar[tuple[str, ...]] = ()
    each: ClassVar[str | None] = None
    runs: ClassVar[str] = "1"
    counts: ClassVar[tuple[str | None, str | None]] = (None, None)
    stages: Mapping[str, Stage]

    def __init__(
        self,
        *stages: "Stage | Callable[..., Any]",
        forbids: tuple[str, ...] = (),
        each: str | None = None,
        opens: str | None = None,
        unsafe: bool = False,
        **slots: "Stage | Callable[..., Any]",
    ) -> None:
        owner = type(self).__name__
        settings = {
            "forbids": names_in(owner, "forbids", forbids),
            "each": scope_in(owner, "each", each),
            "opens": scope_in(owner, "opens", opens),
            "unsafe": flag_in(owner, "unsafe", unsafe),
        }
        for setting, wanted in settings.items():
            if wanted:
                object.__setattr__(self, setting, wanted)
        held: dict[str, Stage] = {}
        for name, given in [*((None, given) for given in stages), *slots.items()]:
            stage = as_stage(given, owner)
            slot = slot_name(name or slot_of(stage), owner)
            if slot in held:
                raise DeclarationError(
                    owner, f"two stages fill the slot {slot!r}. Name one by keyword: other_{slot}=..."
                )
            if any(_same(stage, other) for other in held.values()):
                raise DeclarationError(owner, f"holds one {stage!r} twice. Give the second its own object.")
            held[slot] = stage
        object.__setattr__(self, "stages", MappingProxyType(held))

    def run(self, state: Any) -> Any:
        run_children = getattr(state, "_run_children", None)
        if run_children is None:
            raise not_run_here(self, state)
        run_children()

    def swap(self, path: str, new: "Stage | Callable[..., Any]") -> "Composite":
        """A copy of this tree with `new` in the slot `path`; the slot keeps its name."""
        return self._edit(
            path, lambda held, slot: {name: as_stage(new) if name == slot else s for name, s in held.items()}
        )

    def remove(self, path: str) -> "Composite":
        """A copy of this tree without the slot `path`."""
        return self._edit(path, lambda held, slot: {name: s for name, s in held.items() if name != slot})

    def insert(
        self,
        new: "Stage | Callable[..., Any]",
        *,
        before: str | None = None,
        after: str | None = None,
        slot: str | None = None,
    ) -> "Composite":
        """A copy of this tree with `new` before or after a slot, in a slot of its own.

        Raises:
            DeclarationError: not exactly one of `before` and `after`, or the new slot's name is taken.
        """
        if (before is None) == (after is None):
            raise DeclarationError("insert", "takes exactly one of before= and after=, a slot or path.")
        stage = as_stage(new)
        name = slot_name(slot or slot_of(stage), "insert")

        def edit(held: Mapping[str, Stage], at: str) -> dict[str, Stage]:
            if name in held:
                raise DeclarationError("insert", f"the slot {name!r} is taken there. Give another by slot=...")
            edited: dict[str, Stage] = {}
            for other, kept in held.items():
                pair = [(name, stage), (other, kept)] if before else [(other, kept), (name, stage)]
                edited.update(pair if other == at else [(other, kept)])
            return edited

        return self._edit(before or after or "", edit)

    def _edit(self, path: str, edit: Callable[[Mapping[str, Stage], str], dict[str, Stage]]) -> "Composite":
        """A copy of this tree in which `edit` made the new slots of the one parent that holds `path`."""
        root = slot_of(self)
        trail = find_one(path, list(paths_of(self, root))).split("/")[1:]
        if not trail:
            raise DeclarationError(path, "is the whole tree. Name a slot in it, or build another tree.")
        *parents, slot = trail
        return self._with(parents, lambda held: edit(held, slot))

    def _with(self, parents: list[str], edit: Callable[[Mapping[str, Stage]], dict[str, Stage]]) -> "Composite":
        held: Mapping[str, Stage] = self.stages
        if parents:
            child = held[parents[0]]
            assert isinstance(child, Composite)
            edited = {**held, parents[0]: child._with(parents[1:], edit)}
        else:
            edited = edit(held)
        return self.holding(edited)

    def holding(self, stages: Mapping[str, Stage]) -> "Self":
        """A copy with other stages in its slots."""
        new = copy.copy(self)
        object.__setattr__(new, "stages", MappingProxyType(dict(stages)))
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "stages": dict(self.stages)}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        vars(self).update(settings, stages=MappingProxyType(settings["stages"]))

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__.get("stages", {})
        if name in held:
            return held[name]
        near = suggestion(nearest(name, held))
        raise AttributeError(f"{type(self).__name__} has no attribute and holds no slot {name!r}.{near}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.stages)})"


class FunctionStage(Stage):
    """A stage whose `run` is a function made by `@stage`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "function", function)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        function: Callable[..., Any] = self.__dict__["function"]
        return function(*args, **kwargs)

    def __repr__(self) -> str:
        name: str = self.__dict__["function"].__name__
        return name


def stage(
    *,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
    touches: tuple[str, ...] = (),
    state: type | None = None,
    inline: tuple[str, ...] = (),
    unsafe: bool = False,
) -> Callable[[Function], Function]:
    """Declare a function as a stage. It stays the function it was, callable in a test.

    Args:
        reads, writes, touches, inline, unsafe: as in `Stage`; the parameters are reads too.
        state: the State class whose fields it brings, when it does not take `state` itself.

    Example:
        >>> from learner import stage
        >>> @stage(writes=("inputs",))
        ... def scale(inputs):
        ...     return inputs / 255
        >>> scale(510.0)
        2.0
    """

    def declare(function: Function) -> Function:
        declared = {"reads": reads, "writes": writes, "touches": touches, "inline": inline}
        function.__stage__ = {**declared, "state": state, "unsafe": unsafe}  # type: ignore[attr-defined]
        return function

    return declare


def as_stage(given: Any, owner: str = "swap") -> Stage:
    """`given` as a stage: itself, or a function made by `@stage` wrapped.

    Raises:
        DeclarationError: it is neither.
    """
    if isinstance(given, Stage):
        return given
    if callable(given) and hasattr(given, "__stage__"):
        return FunctionStage(given)
    if isinstance(given, type) and issubclass(given, Stage):
        raise DeclarationError(owner, f"got the class {given.__name__}. Give an object: {given.__name__}(...).")
    if callable(given):
        name = getattr(given, "__name__", repr(given))
        raise DeclarationError(
            owner, f"got the function {name}, which declares nothing. Put @stage(writes=(...)) on it."
        )
    raise DeclarationError(owner, f"got {given!r}, which is no stage.")


def slot_of(stage: Stage) -> str:
    """The slot a stage fills unless its parent names another."""
    if isinstance(stage, FunctionStage):
        return snake_case(repr(stage))
    return stage.slot or snake_case(type(stage).__name__)


def paths_of(stage: Stage, path: str, above: tuple[Stage, ...] = ()) -> "list[str]":
    """The paths of a stage and all below it, in order; of one that stands inside itself (`above` it), its own."""
    is_inside_itself = any(stage is other for other in above)  # a finding of the check
    below = stage.stages.items() if isinstance(stage, Composite) and not is_inside_itself else ()
    return [path, *(deep for slot, child in below for deep in paths_of(child, f"{path}/{slot}", (*above, stage)))]


def not_run_here(stage: Stage, state: object) -> Misuse:
    """The error for a stage that is called from elsewhere than the `run` of the composite that holds it."""
    told = "Use learner.run(path) to run a part of the tree, learner.testing.run_stage to test a stage."
    return Misuse(f"{type(stage).__name__} was called with {a_kind(state)}; only a composite runs it. {told}")


def _same(stage: Stage, other: Stage) -> bool:
    if isinstance(stage, FunctionStage) and isinstance(other, FunctionStage):
        return bool(stage.__dict__["function"] is other.__dict__["function"])
    return stage is other
