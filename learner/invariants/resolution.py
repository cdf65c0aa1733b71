"""What is so of weights in half precision: they move. Steps that are too small for their type are rounded away."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner.invariants.standing import warned
from learner.invariants.updates import updated_by_optimizers
from stages import Invariant, TrainingPhase
from stages.check import actors
from stages.invariants import Wrong
from stages.place import Place

MOST = 65_536
"""So many numbers of one tensor of each module are looked at."""

MOSTLY = 0.9
"""So much of a weight has to have a gradient, or to change where it is averaged."""

UPDATES = 10
"""After fewer updates in a pass nothing is said."""

_HALVES = (torch.float16, torch.bfloat16)


def invariants() -> tuple[Invariant, ...]:
    """What is so of weights in half precision."""
    moving, name = Moving(), "weights in half precision move"
    return (warned(name, moving.begin, before=TrainingPhase), warned(name, moving.ended, after=TrainingPhase))


class Moving:
    """Over a pass, most numbers of a weight in half precision change, where it is trained and has a gradient, or where
    somebody writes it in the pass after a weight of another module that does change, as an average of it.

    An average with a decay of 0.999 moves by a thousandth, and bfloat16 does not tell 256 from 256.5.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], Tensor] = {}  # by module and parameter, some of its numbers
        self._updates = 0

    def begin(self, state: Any, updates: int) -> None:
        """A pass begins."""
        modules = state.components(nn.Module)
        largest = [_largest(module) for module in modules.values()]
        names = {name for name, one in largest if one is not None and one.dtype in _HALVES}
        found = {(field, name): _parameter(module, name) for field, module in modules.items() for name in names}
        self._before = {key: _some(one).clone() for key, one in found.items() if one is not None}
        self._updates = updates

    def ended(self, state: Any, updates: int, place: Place) -> Wrong | None:
        """It has ended."""
        before, self._before, count = self._before, {}, updates - self._updates
        if not before or count < UPDATES:
            return None
        modules, updated = state.components(nn.Module), updated_by_optimizers(state)
        now = {(field, name): _parameter(modules[field], name) for field, name in before if field in modules}
        here = {key: one for key, one in now.items() if one is not None and _some(one).shape == before[key].shape}
        moved = {key: _share(_some(one) != before[key]) for key, one in here.items()}
        written = {name for _, access in actors(place.walk()) for name in access.writes}
        for (field, name), one in here.items():
            if one.dtype not in _HALVES or moved[field, name] >= 0.5 or f"{field}.params" not in written:
                continue
            if id(one) in updated:
                is_to_move = one.grad is not None and _share(_some(one.grad) != 0) > MOSTLY
            else:
                others = [moved[key] for key, other in here.items() if key[1] == name and id(other) in updated]
                is_to_move = max(others, default=0.0) > MOSTLY
            if is_to_move:
                told = (
                    f"only {moved[field, name]:.0%} of {field}.params.{name} changed in {count} updates: steps that are"
                )
                return Wrong(f"{told} too small for {one.dtype} are lost; keep it in float32", (f"{field}.params",))
        return None


def _largest(module: nn.Module) -> tuple[str, nn.Parameter | None]:
    """The largest weight of a module that can be read."""
    plain = [(name, one) for name, one in module.named_parameters() if _is_read(one)]
    return max(plain, key=lambda pair: pair[1].numel(), default=("", None))


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    found = dict(module.named_parameters()).get(name)
    return found if found is not None and _is_read(found) else None


def _is_read(parameter: nn.Parameter) -> bool:
    return parameter.layout == torch.strided and not parameter.is_meta and not is_lazy(parameter)


def _some(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten()[:MOST]


def _share(mask: Tensor) -> float:
    return float(mask.float().mean()) if mask.numel() else 1.0
