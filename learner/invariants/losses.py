"""What is so of losses: what is added to one has a gradient, and in one update a mean counts as much as it is over."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from learner.invariants.standing import warned
from stages import Invariant, Microbatches, TrainingPhase, Window, Writes
from stages.batch import batch_size
from stages.check import actors
from stages.invariants import Wrong
from stages.place import Place

UNEQUAL = 1.5
"""Means over so many times as much count alike, and are told of."""

_SAME = ("Neg", "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "ToCopy", "Clone", "Alias", "Expand")


def invariants() -> tuple[Invariant, ...]:
    """What is so of losses."""
    constant, name = Constant(), "what is added to a loss is learnt from"
    return (
        warned(name, constant.begin, after=Writes("loss"), within=TrainingPhase, hooks=False),
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
    seen in the loss, and nothing is learnt from it.
    """

    def __init__(self) -> None:
        self._graphs: list[Any] = []

    def begin(self, loss: Any) -> None:
        """A stage has written the loss."""
        self._graphs = [*self._graphs[-3:], loss.grad_fn] if _is_loss(loss) else []

    def __call__(self, state: Any, place: Place, loss: Any) -> Wrong | None:
        """The loss is to be differentiated."""
        graphs, self._graphs = self._graphs, []
        node, is_added = getattr(loss, "grad_fn", None), False
        while node is not None and not (is_added and node in graphs):
            kind, below = _kind(node), [one for one, _ in node.next_functions if one is not None]
            if len(below) != 1 or kind not in (*_SAME, "Add", "Sub", "Mul", "Div"):
                return None
            node, is_added = below[0], is_added or kind in ("Add", "Sub")
        modules = state.components(nn.Module).keys()
        everyone = [(path, access.reads) for path, access in actors(place.root.walk()) if "loss" in access.writes]
        who = next((path for path, reads in everyone if "loss" in reads and not modules.isdisjoint(reads)), None)
        if node is None or who is None:
            return None
        return Wrong(f"what {who} adds to 'loss' has no graph, so that nothing is learnt from it", ("loss",))


class Weighing:
    """The losses of one update that are means, are so over equally many elements for each sample, or are weighted.

    What a loss was divided by is read from its graph. A batch with fewer samples than the others, as the last one of a
    pass, may count like them. (The mean of means over parts of unequal length is not the mean: transformers#34191.)
    """

    def __init__(self) -> None:
        self._update: tuple[str, int] | None = None
        self._seen: dict[str, list[tuple[float, float, int]]] = {}  # by term: divisor, divisor by weight, samples

    def __call__(self, state: Any, place: Place) -> Wrong | None:
        """Before a stage that writes gradients."""
        around = [one.stage for one in place.ancestors() if isinstance(one.stage, Window | Microbatches)]
        values = state.values_of("run") | state.values_of("batch") if around else {}
        name = next((one for one in place.access.reads if _is_loss(values.get(one))), None)
        total = values.get("updates" if any(isinstance(one, Window) for one in around) else "batches_seen")
        if name is None or total is None:
            return None
        if self._update != (place.path, total):
            self._update, self._seen = (place.path, total), {}
        weight = values.get("loss_weight")
        share = float(weight) if isinstance(weight, int | float | Tensor) and weight else 1.0
        samples = batch_size(values.get("outputs", values.get("batch")))
        for term, divisor in _divisors(values[name]):
            seen = self._seen.setdefault(term, [])
            seen.append((divisor, divisor / share, samples))
            weighted, by_sample = [one[1] for one in seen], [one[1] / one[2] for one in seen]
            if _ratio(weighted) >= UNEQUAL and _ratio(by_sample) >= UNEQUAL:
                few, many = min(one[0] for one in seen), max(one[0] for one in seen)
                told = (
                    f"{name!r} is a mean over {few:g} in one batch and over {many:g} in another one of the same update"
                )
                return Wrong(f"{told}, and both count alike: divide their sums by one number", (name,))
        return None


def _is_loss(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.grad_fn is not None


def _ratio(values: list[float]) -> float:
    return max(values) / min(values)


def _divisors(loss: Tensor) -> Iterator[tuple[str, float]]:
    """What the sum behind each term of a loss was divided by, where its graph tells: (which term, divisor)."""
    waiting: list[tuple[Any, str, float]] = [(loss.grad_fn, "", 1.0)]
    while waiting:
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
            if count and math.isfinite(count * factor):
                yield term, abs(count * factor)


def _kind(node: Any) -> str:
    """Which function of autograd: "Add", "NllLoss"."""
    name: str = node.name()
    return name.rstrip("0123456789").removesuffix("Backward")


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
        return _number(counted)
    before, index = node.next_functions[0]
    return float(math.prod(before._input_metadata[index].shape))


def _number(value: object) -> float | None:
    """A constant by which something was multiplied or divided."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and not value.is_meta else None
    return float(value) if isinstance(value, int | float) else None
