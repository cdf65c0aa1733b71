"""Control: composites that decide how often, and on what, the stages they hold run."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from stages.batch import batch_size, detached, each_in, joined
from stages.cancel import Cancel, Exhausted
from stages.contract import parameters_of
from stages.counts import Count
from stages.declared import names_in, whole_in
from stages.errors import BatchError, DeclarationError
from stages.stage import Composite, Stage
from state.errors import short
from state.fields import field


class Chain(Composite):
    """Stages in order, under one name: a part of a tree that is bound, forbidden something or swapped as a whole."""


class Repeat(Composite):
    """Run its stages several times.

    Args:
        times: how often.
        stages, slots: what to repeat, as in Composite.
        each: a scope that each time opens, so that fields of that scope start anew: `Repeat(5, ..., each="inner")`.

    Raises:
        DeclarationError: `times` is no positive whole number.
    """

    runs = "1+"

    def __init__(self, times: int, *stages: Any, **slots: Any) -> None:
        object.__setattr__(self, "times", whole_in("Repeat", times))
        super().__init__(*stages, **slots)

    times: int

    def run(self, state: Any) -> None:
        for _ in range(self.times):
            if self.each is None:
                super().run(state)
            else:
                with state.round():
                    super().run(state)


class When(Composite):
    """Run its stages if a condition holds.

    Args:
        condition: a function whose parameters are the fields it reads: `When(lambda updates: updates > 100, ...)`.

    Raises:
        DeclarationError: its parameters cannot be fields.
    """

    runs = "0-1"

    def __init__(self, condition: Callable[..., object], *stages: Any, **slots: Any) -> None:
        is_stage = isinstance(condition, Stage | type) or hasattr(condition, "__stage__")
        if is_stage or not callable(condition):
            told = "It wants a function of fields first: When(lambda updates: updates > 100, ...)."
            raise DeclarationError("When", f"got {short(condition)} as its condition. {told}")
        object.__setattr__(self, "condition", condition)
        object.__setattr__(self, "asked", parameters_of("When", condition))
        super().__init__(*stages, **slots)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # they are those of the condition
        return tuple(name + ("?" if optional else "") for name, optional in self.asked)

    condition: Callable[..., object]
    asked: tuple[tuple[str, bool], ...]

    def run(self, state: Any) -> None:
        if self.condition(*[getattr(state, name) for name, _ in self.asked]):
            super().run(state)


class Every(Composite):
    """Run its stages in each round whose number in the run, from 1, is a multiple: `Every("100 batches", ...)`.

    Args:
        rounds: "100 batches", "50 updates" or "2 epochs".

    Raises:
        DeclarationError: `rounds` is none of these.
    """

    runs = "0-1"

    def __init__(self, rounds: str, *stages: Any, **slots: Any) -> None:
        object.__setattr__(self, "rounds", Count.parse(rounds, "Every"))
        super().__init__(*stages, **slots)

    rounds: Count

    def run(self, state: Any) -> None:
        if state.round_number(self.rounds.unit) % self.rounds.number == 0:
            super().run(state)


class Window(Composite):
    """Several batches for one update: gradients add up over them, and `AverageGradients` divides them.

    Args:
        batches: how many. The last window of a phase may have fewer.

    Writes:
        window_size: how many batches it had; those that were cancelled or skipped do not count, though gradients that
            one had added by then stay in the sum.
        window_counts: after each batch how many it has taken, and how many of these count. A checkpoint keeps it, so
            that a run can go on in the middle of a window.

    Its rounds are batches; the loop round it has `each="update"`. It ends early, and lets the update follow, when the
    loader is exhausted or `fit(batches=...)` has what it asked for. One in which no batch counts cancels its update.

    Raises:
        DeclarationError: `batches` is no positive whole number, or `each` is given.
    """

    each = "batch"
    runs = "1+"
    counts = ("batch_index", "batches_seen")
    reads: ClassVar[tuple[str, ...]] = ("window_counts?",)
    writes: ClassVar[tuple[str, ...]] = ("window_size", "window_counts")

    def __init__(self, batches: int, *stages: Any, **slots: Any) -> None:
        object.__setattr__(self, "batches", whole_in("Window", batches))
        _refuse_each("Window", slots, "batches; the loop round it has each='update'")
        super().__init__(*stages, **slots)

    batches: int

    def fields(self) -> dict[str, Any]:
        size = field(scope="update", description="batches of the window behind this update")
        told = "batches of the window so far, and how many of them count"
        counts = field(scope="update", description=told, saved="saved")
        return {"window_size": (int, size), "window_counts": (tuple[int, int], counts)}

    def run(self, state: Any) -> None:
        taken = size = 0
        try:
            if state.goes_on():
                taken, size = state.window_counts
            while taken < self.batches:
                with state.round() as round:
                    taken += 1
                    state.window_counts = taken, size  # also of a batch that is cancelled
                    super().run(state)
                    size += not round.is_skipped
                    state.window_counts = taken, size
        except Exhausted:
            if not size:
                raise
            state.end_after_round()
        if not size:
            raise Cancel("update", "every batch of its window was cancelled or skipped")
        state.window_size = size


class Microbatches(Composite):
    """Cut each batch in parts that fit into memory, each with its own forward, loss and backward.

    Args:
        parts: into how many; the last may be smaller, and there are never more than samples.
        split: fields that are cut along their first dimension; they are whole again afterwards, however it ends.
        join: fields whose parts are put together again, detached.

    Writes:
        loss: of the whole batch: the mean of the parts, weighted by their samples, detached.
        loss_weight: inside, the share of a part in the batch, by which `Backward` multiplies its loss. So the gradients
            are those of the whole batch, where the loss is a mean over samples. A weight that the batch has is
            multiplied by it, and is back afterwards; else it is 1 then.

    A part that is cancelled (its scope is "microbatch") adds nothing to gradients, loss and outputs. Where every part
    is, the batch is cancelled. One that is cancelled midway has no loss and no outputs, rather than those of a part.

    Raises:
        DeclarationError: `parts` is no positive whole number, `split` names nothing, or `each` is given.
        BatchError: the batch is empty, or a field that is to be cut is no tensor, tuple, list or mapping of tensors of
            one length.
    """

    each = "microbatch"
    runs = "1+"

    def __init__(
        self,
        parts: int,
        *stages: Any,
        split: tuple[str, ...] = ("inputs", "targets"),
        join: tuple[str, ...] = ("outputs",),
        **slots: Any,
    ) -> None:
        owner = "Microbatches"
        object.__setattr__(self, "parts", whole_in(owner, parts))
        object.__setattr__(self, "split", names_in(owner, "split", split))
        object.__setattr__(self, "join", names_in(owner, "join", join))
        if not self.split:
            raise DeclarationError(owner, "split=() cuts nothing. Name fields of the batch: split=('inputs',), say.")
        _refuse_each(owner, slots, "parts of one batch")
        super().__init__(*stages, **slots)

    parts: int
    split: tuple[str, ...]
    join: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # they are settings
        return (*self.split, "loss", *self.join, "loss_weight?")

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*self.split, "loss", *self.join, "loss_weight")

    def run(self, state: Any) -> None:
        whole = {name: getattr(state, name) for name in self.split}
        size = batch_size(whole[self.split[0]])
        if not size:
            told = "Let the loader leave out empty batches."
            raise BatchError(f"Microbatches got a batch whose {self.split[0]!r} has no sample. {told}")
        length = -(-size // self.parts)
        weight = 1.0 if state.loss_weight is None else state.loss_weight
        loss: Any = None
        outputs: dict[str, list[Any]] = {name: [] for name in self.join}
        try:
            for start in range(0, size, length):
                part = {name: _cut(name, value, start, length, size) for name, value in whole.items()}
                with state.round():
                    for name, value in part.items():
                        setattr(state, name, value)
                    share = min(length, size - start) / size
                    state.loss_weight = share * weight
                    super().run(state)
                    part_loss = state.loss.detach() * share
                    loss = part_loss if loss is None else loss + part_loss
                    for name, held in outputs.items():
                        held.append(detached(getattr(state, name)))
            if loss is None:
                raise Cancel("batch", "every part of it was cancelled")
        except Cancel:
            state.take_back("loss", *self.join)
            raise
        finally:
            for name, value in whole.items():
                setattr(state, name, value)
            state.loss_weight = weight
        state.loss = loss
        for name, held in outputs.items():
            setattr(state, name, joined(held))


def _cut(name: str, value: Any, start: int, length: int, size: int) -> Any:
    """The samples from `start` on of a tensor, or of the tensors in a tuple, list or mapping."""
    if isinstance(value, Tensor):
        if not value.dim() or value.shape[0] != size:
            samples = "1 sample" if size == 1 else f"{size} samples"
            told = f"the batch has {samples}, and a tensor in it has the shape {list(value.shape)}."
            raise BatchError(f"Microbatches cannot cut {name!r}: {told} Name what is to be cut by split=(...).")
        return value[start : start + length]
    if isinstance(value, tuple | list | Mapping):
        return each_in(value, lambda one: _cut(name, one, start, length, size))
    told = f"it is {short(value)}, no tensor and no tuple, list or mapping of tensors."
    raise BatchError(f"Microbatches cannot cut {name!r}: {told} Name what is to be cut by split=(...).")


def _refuse_each(owner: str, slots: dict[str, Any], rounds: str) -> None:
    """Refuse another scope for the rounds of a stage that has its own."""
    if slots.get("each") is not None:
        raise DeclarationError(owner, f"got each={short(slots['each'])}. Its rounds are {rounds}.")
