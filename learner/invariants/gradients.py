"""What is so of gradients: what is to learn gets one, who has one is updated, and none is kept for nothing."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.invariants.clearing import has_any
from learner.invariants.standing import UPDATE, warned
from learner.invariants.updates import in_tree, names_of_parameters, shown, stepped, updated_by_optimizers
from stages import Invariant, TrainingPhase, Writes
from stages.invariants import Wrong
from stages.place import ROOT, Place
from state.parts import optimized, trained

UPDATES = 3
"""So many updates there have to be at least."""

PASSES = 3
"""After so many passes over the data a gradient is missed, if the run does not end before."""

GATHERED = 0.4
"""A graph that has so many times the nodes of one batch, for each batch, has them all: those of parameters are
shared."""

MOST = 20_000
"""So many nodes of a graph are counted."""


def invariants() -> tuple[Invariant, ...]:
    """What is so of gradients."""
    ungraded, discarded, kept = Ungraded(), Discarded(), Kept()
    return (
        warned(
            "what is to be trained gets gradients",
            ungraded.note,
            around=Writes("*.state"),
            compares=("*.params",),
            hooks=False,
        ),
        warned("what is to be trained gets gradients", ungraded.passed, after=TrainingPhase),
        warned("what is to be trained gets gradients", ungraded.told, after=ROOT, sampled=False),
        warned("what a backward pass computes is used", discarded.updated, after=UPDATE, hooks=False),
        warned(
            "what a backward pass computes is used",
            discarded,
            around=Writes("*.grads"),
            within=TrainingPhase,
            compares=("*.grads",),
            hooks=False,
        ),
        warned("what gets a gradient is updated", unused_gradients, before=Writes("*.state"), then="record"),
        warned("what is thawed is updated", Thawed(), before=Writes("*.state")),
        warned(
            "a number that outlives its batch has not the graph of each, and is not in half precision",
            kept.begin,
            before=TrainingPhase,
        ),
        warned(
            "a number that outlives its batch has not the graph of each, and is not in half precision",
            kept.fetching,
            before=Writes("batch"),
        ),
        warned(
            "a number that outlives its batch has not the graph of each, and is not in half precision",
            kept.ended,
            after=TrainingPhase,
        ),
    )


class Ungraded:
    """Whatever an optimizer is to train has a gradient in some update of the first passes over the data, or of the run.

    Those that have none in the updates that are looked at, and whose version counter has not moved since the first one,
    have had none.
    """

    def __init__(self) -> None:
        self._graded: set[int] = set()  # by any update: an optimizer may hold what another one trains
        self._versions: dict[int, tuple[Tensor, int]] = {}
        self._updates = 0
        self._passes = 0
        self._is_told = False

    def note(self, state: Any, changed: tuple[str, ...], place: Place) -> None:
        """After an update, which changed these."""
        trained = [parameter for parameter in optimized(*stepped(state, place)) if parameter.requires_grad]
        self._graded.update(id(one) for one in trained if one.grad is not None)
        is_graded = any(one.grad is not None for one in trained)
        self._updates += is_graded or bool(trained and not changed)  # else their gradients are cleared already
        for one in trained:
            self._versions.setdefault(id(one), (one, one._version))

    def passed(self, state: Any) -> str | None:
        """After a pass: a loss may come in later, and a layer may wait."""
        self._passes += 1
        return self.told(state) if self._passes >= PASSES else None

    def told(self, state: Any) -> str | None:
        """After a run, if that has come to the end of a pass."""
        if self._updates < UPDATES or not self._passes or self._is_told:
            return None
        versions, self._versions, self._is_told = self._versions, {}, True
        names = names_of_parameters(state)
        without = [
            names[key][0]
            for key, (one, version) in versions.items()
            if key in names and key not in self._graded and one._version == version and one.requires_grad
        ]
        told = "had no gradient so far: is something detached, or not used?"
        return f"{shown(without)} {told}" if without else None


class Discarded:
    """What a backward pass has computed is used by an update, where the tree has one, before it is cleared.

    It is not where two of the first rounds clear some and no update has used any by then, though there are updates
    later. What one stage computes for several models at once is used if one of them is updated by it. What is not
    finite may be thrown away.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[int, str]] = {}  # by model: in which batch, by whom
        self._used: set[tuple[int, str]] = set()
        self._cleared: list[tuple[tuple[int, str], str]] = []  # in the batch itself, where another part may yet be used
        self._lost: list[tuple[tuple[int, str], str]] = []
        self._is_settled = False

    def updated(self, state: Any, place: Place) -> None:
        """After an update."""
        fields = _trained_by(state, stepped(state, place))
        used = {self._made.pop(field) for field in fields & self._made.keys()}
        self._used |= used
        self._is_settled |= bool(used) and len(self._lost) < 2

    def __call__(self, state: Any, changed: tuple[str, ...], place: Place, batches_seen: int) -> Wrong | None:
        """After a stage that writes gradients."""
        if self._is_settled:
            return None
        lost = [(made, field) for made, field in self._cleared if made[0] < batches_seen]
        self._cleared = [(made, field) for made, field in self._cleared if made[0] >= batches_seen]
        declared = place.access.owners("grads")
        stepping = _trained_by(state, stepped(state, place))  # in one stage with the backward pass
        clears = False
        for field in sorted(({name.partition(".")[0] for name in changed} & declared) - stepping):
            made = self._made.pop(field, None)
            gradients = [parameter.grad for parameter in state.components(nn.Module)[field].parameters()]
            if any(map(has_any, gradients)):
                if all(map(_is_known_and_finite, gradients)):
                    self._made[field] = (batches_seen, place.path)
                continue
            clears = True
            if made is not None and batches_seen - made[0] <= 1:
                (self._cleared if made[0] == batches_seen else lost).append((made, field))
        trained = _trained_by(state, in_tree(state, place)) if lost else ()
        self._lost += [(made, field) for made, field in lost if made not in self._used and field in trained]
        self._used = {made for made in self._used if made[0] >= batches_seen - 1}
        if not clears or len(self._lost) < 2 or not state.values_of("run").get("updates"):
            return None
        self._is_settled = True
        (_, maker), field = self._lost[0]
        told = f"{field}.grads were cleared again and again before an update had used what {maker} put there"
        return Wrong(told, (f"{field}.grads",))


def _trained_by(state: Any, optimizers: Iterable[Optimizer]) -> set[str]:
    """The modules of State of which these optimizers have parameters."""
    names = names_of_parameters(state)
    return {name.partition(".")[0] for one in optimized(*optimizers) for name in names.get(id(one), ())}


def unused_gradients(state: Any) -> str | None:
    """Whatever gets a gradient is updated by an optimizer of State."""
    found = [name for name, parameter in _not_updated(state).items() if has_any(parameter.grad)]
    return f"{shown(found)} got a gradient, and no optimizer updates it: add it to one, or freeze it" if found else None


class Thawed:
    """Whatever is to be trained from some batch on is updated from then on."""

    def __init__(self) -> None:
        self._known: set[str] | None = None

    def __call__(self, state: Any) -> Wrong | None:
        now = _not_updated(state)
        known, self._known = self._known, {*now, *(self._known or ())}
        found = [name for name in now if known is not None and name not in known]
        if not found:
            return None
        fields = dict.fromkeys(f"{name.partition('.')[0]}.mode.frozen" for name in found)
        return Wrong(
            f"{shown(found)} is to be trained now, and no optimizer has it: add_param_group(...)", tuple(fields)
        )


def _not_updated(state: Any) -> dict[str, nn.Parameter]:
    """The parameters that are to be trained and that no optimizer has, by name; none where there is no optimizer."""
    updated = updated_by_optimizers(state)
    found = trained(state.components(nn.Module)) if updated else ()
    return {f"{field}.{name}": parameter for field, name, parameter in found if id(parameter) not in updated}


class Kept:
    """A number that outlives its batch does not gather the graphs of all batches, and has digits enough.

    A sum of some losses, from which gradients are computed together, has a graph and loses it again. In half precision
    a sum stops growing.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # of the graph with the first batch in it
        self._begin = 0

    def begin(self, batches_seen: int) -> None:
        """A pass begins."""
        self._begin = batches_seen

    def fetching(self, state: Any) -> Wrong | None:
        """Before another batch is there."""
        for name, value in _numbers(state):
            if value.grad_fn is not None and name not in self._sizes:
                self._sizes[name] = _size(value)
            if value.dtype in (torch.float16, torch.bfloat16):
                told = f"{name!r} outlives the batch in {value.dtype}, where 256 and 1 may make 256: keep it in float32"
                return Wrong(told, (name,))
        return None

    def ended(self, state: Any, batches_seen: int) -> Wrong | None:
        """After a pass."""
        batches = batches_seen - self._begin
        for name, value in _numbers(state):
            first = self._sizes.get(name, 0)
            if first and batches > 4 and _size(value) >= min(MOST, first * batches * GATHERED):
                told = f"{name!r} has a graph, which keeps those of all {batches} batches of this pass: detach it"
                return Wrong(told, (name,))
        return None


def _numbers(state: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one element in fields that outlive a batch."""
    for scope in ("run", "epoch", "phase"):
        for name, value in state.values_of(scope).items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.numel() == 1:
                yield name, value


def _size(value: Tensor) -> int:
    """How many nodes its graph has, up to MOST."""
    waiting, seen = [value.grad_fn] if value.grad_fn is not None else [], set[Any]()
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [one for one, _ in node.next_functions if one is not None]
    return len(seen)


def _is_known_and_finite(gradient: Tensor | None) -> bool:
    if gradient is None:
        return True
    return not gradient.is_meta and gradient.layout == torch.strided and bool(gradient.isfinite().all())
