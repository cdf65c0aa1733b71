"""What is so of losses: what is added to one has a gradient, and in one update a mean counts as much as it is over."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from learner.invariants.standing import warned
from stages import Backward, Invariant, Microbatches, TrainingPhase, Window, Writes
from stages.batch import batch_size
from stages.check import actors
from stages.invariants import Wrong
from stages.place import Place

TERMS = 256
"""So many functions of a graph are looked at."""

IMAGES = 4
"""What has so many dimensions is no sequence: samples, channels, height and width."""

UNEQUAL = 1.5
"""Means over so many times as much count alike, and are told of."""

_SAME = ("Neg", "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "ToCopy", "Clone", "Alias", "Expand")


def invariants() -> tuple[Invariant, ...]:
    """What is so of losses."""
    constant, name = Constant(), "what is added to a loss is learnt from"
    return (
        warned(name, constant.begin, before=Writes("loss"), within=TrainingPhase, hooks=False),
        warned(name, constant.written, after=Writes("loss"), within=TrainingPhase, hooks=False),
        warned(name, constant, before=Writes("*.grads"), within=TrainingPhase, hooks=False),
        warned(
            "in one update a mean counts as much as what it is over",
            Weighing(),
            before=Writes("*.grads"),
            within=TrainingPhase,
            hooks=False,
        ),
    )


class Constant:
    """A term that a hook or stage adds to a loss, and computes with a model, has a graph.

    Without one (a penalty from `autograd.grad` without `create_graph`, `.item()`, `.detach()`) it is a constant: it is
    seen in the loss, and nothing is learnt from it. What a graph begins with is compared from one writer of the loss to
    the next one; nothing of it is kept alive.
    """

    def __init__(self) -> None:
        self._before: tuple[str, ...] = ()
        self._value: Tensor | None = None
        self._adding = ""  # who added something: a stage, or ":" for the hooks between two

    def begin(self, loss: Any) -> None:
        """A stage that writes the loss begins, and may read what there is."""
        self._compare(loss, ":")

    def written(self, loss: Any, place: Place) -> None:
        """It has ended."""
        self._compare(loss, place.path)

    def __call__(self, state: Any, place: Place, loss: Any) -> Wrong | None:
        """The loss is to be differentiated."""
        self._compare(loss, ":")
        adding, self._adding, self._before, self._value = self._adding, "", (), None
        if not adding:
            return None
        modules = state.components(nn.Module).keys()
        for path, access in actors(place.root.walk()):
            reads_both = "loss" in access.reads and not modules.isdisjoint(access.reads)
            if "loss" in access.writes and reads_both and (path == adding or (adding == ":" and ":" in path)):
                return Wrong(f"what {path} adds to 'loss' has no graph, so that nothing is learnt from it", ("loss",))
        return None

    def _compare(self, loss: Any, who: str) -> None:
        now, before, value = _chain(loss), self._before, self._value
        self._before, self._value = now, loss.detach() if now else None
        added = now[: len(now) - len(before)]
        if not before or now[len(added) :] != before:
            self._adding = ""
        elif {"Add", "Sub"}.intersection(added) and value is not None and not torch.equal(value, loss.detach()):
            self._adding = who  # a term that is 0 may be switched off


def _chain(loss: Any) -> tuple[str, ...]:
    """What a loss was made by at last, back to the first function that has several inputs or is no arithmetic."""
    node, found = loss.grad_fn if _is_loss(loss) else None, []
    while node is not None:
        below = [one for one, _ in node.next_functions if one is not None]
        kind = _kind(node)
        found.append(kind)
        node = below[0] if len(below) == 1 and kind in (*_SAME, "Add", "Sub", "Mul", "Div") else None
    return tuple(found)


class Weighing:
    """The losses of one update that are means, are so over equally many elements for each sample, or are weighted.

    What a loss was divided by is read from its graph, where `Backward` differentiates it. A batch with fewer samples
    than the others, as the last one of a pass, may count like them, and so may images of unequal size. (The mean of
    means over parts of unequal length is not the mean: transformers#34191.)
    """

    def __init__(self) -> None:
        self._updates: dict[str, int] = {}  # by place: which one
        self._seen: dict[tuple[str, str], list[tuple[float, float]]] = {}  # by place and term: divisor, that by weight

    def __call__(self, state: Any, place: Place) -> Wrong | None:
        """Before a stage that writes gradients."""
        if not isinstance(place.stage, Backward) or type(place.stage).run is not Backward.run:
            return None  # of another one nobody knows how it weighs the loss
        around = [one.stage for one in place.ancestors() if isinstance(one.stage, Window | Microbatches)]
        values = state.values_of("run") | state.values_of("batch") if around else {}
        name = next((one for one in place.access.reads if _is_loss(values.get(one))), None)
        total = values.get("updates" if any(isinstance(one, Window) for one in around) else "batches_seen")
        if name is None or total is None:
            return None
        if self._updates.get(place.path) != total:
            self._updates[place.path] = total
            self._seen = {key: seen for key, seen in self._seen.items() if key[0] != place.path}
        weight = values.get("loss_weight")
        share = float(weight) if isinstance(weight, int | float | Tensor) and weight else 1.0
        samples = batch_size(values.get("outputs", values.get("batch")))
        try:
            divisors = [*_divisors(values[name])]
        except RuntimeError:  # it was differentiated already, and its graph is gone
            return None
        for term, divisor in divisors:
            seen = self._seen.setdefault((place.path, f"{term} {samples}"), [])
            seen.append((divisor, divisor / share))
            weighted = [one[1] for one in seen]
            if max(weighted) / min(weighted) >= UNEQUAL:
                few, many = min(one[0] for one in seen), max(one[0] for one in seen)
                told = (
                    f"{name!r} is a mean over {few:g} in one batch and over {many:g} in another one of the same update"
                )
                return Wrong(f"{told}, and both count alike: divide their sums by one number", (name,))
        return None


def _is_loss(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.grad_fn is not None


def _divisors(loss: Tensor) -> Iterator[tuple[str, float]]:
    """What the sum behind each term of a loss was divided by, where its graph tells: (which term, divisor)."""
    waiting: list[tuple[Any, str, float]] = [(loss.grad_fn, "", 1.0)]
    for _ in range(TERMS):
        if not waiting:
            return
        node, term, factor = waiting.pop()
        kind = _kind(node)
        below = [(one, index) for index, (one, _) in enumerate(node.next_functions) if one is not None]
        if kind in ("Add", "Sub"):
            waiting += [(one, f"{term}{index}", factor) for one, index in below]
        elif kind in _SAME and len(below) == 1:
            waiting.append((below[0][0], term, factor))
        elif kind in ("Mul", "Div") and len(below) == 1:
            is_left = below[0][1] == 0
            other = _number(node._saved_other if is_left else node._saved_self) if kind == "Mul" or is_left else None
            if other:
                waiting.append((below[0][0], term, factor * other if kind == "Div" else factor / other))
        else:
            count = _averaged(node, kind)
            if count and math.isfinite(count * factor) and _dimensions(node) < IMAGES:
                yield f"{term} {kind} {_dimensions(node)}", abs(count * factor)


def _kind(node: Any) -> str:
    """Which function of autograd: "Add", "NllLoss"."""
    name: str = node.name()
    return name.rstrip("0123456789").removesuffix("Backward") if name[-1:].isdigit() else name  # one of the user's


def _dimensions(node: Any) -> int:
    """How many dimensions the first input of a function has."""
    before, index = node.next_functions[0] if node.next_functions else (None, 0)
    return 0 if before is None else len(before._input_metadata[index].shape)


def _averaged(node: Any, kind: str) -> float | None:
    """Over how many elements a function of autograd made a mean; 1 for a sum; None where it is something else."""
    if kind == "Sum":
        return 1.0
    if kind == "Mean":
        return float(math.prod(node._saved_self_sym_sizes))
    reduction = getattr(node, "_saved_reduction", None)
    if reduction == 2:
        return 1.0
    if reduction != 1 or not node.next_functions or node.next_functions[0][0] is None:
        return None
    counted = getattr(node, "_saved_total_weight", None)  # without those of ignore_index
    if counted is not None:
        return _number(counted) if node._saved_weight is None else None  # else it is a sum of the weights of classes
    before, index = node.next_functions[0]
    return float(math.prod(before._input_metadata[index].shape))


def _number(value: object) -> float | None:
    """A constant by which something was multiplied or divided."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and not value.is_meta else None
    return float(value) if isinstance(value, int | float) else None
