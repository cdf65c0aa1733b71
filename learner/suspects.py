"""Suspects: what can be run and hardly anybody means, found when a Learner is put together."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from learner.at_hand import of_hook, of_stage
from stages import Assembly, EvaluationPhase, Finding, Phase
from stages.check import actors
from stages.place import Place
from state import State
from state.access import Access
from state.errors import a_kind
from state.parts import optimized, trained

_DECIDING = (LRScheduler, Optimizer, GradScaler)


def suspect(assembly: Assembly, state: State) -> list[Finding]:
    """A warning for each scheduler, optimizer or scaler that a stage or hook has and State has not, for each
    module that a model uses and does not register, and for what an evaluation carries over to the next one.

    What a function closes over counts, and so do the globals that it names and the attributes of its object.
    """
    held = set(map(id, state.__dict__.values()))
    found = [
        *_unregistered(state),
        *_one_under_two_names(assembly, state),
        *_in_one_memory(state),
        *_carried_over(assembly),
    ]
    for path, source, things in _actors(assembly):
        for name, thing in things:
            if isinstance(thing, _DECIDING) and id(thing) not in held:
                told = f"{path} keeps {name!r}, {a_kind(thing)}, which is not in State"
                missing = "no checkpoint has it, and the log does not tell what it does"
                is_moved = isinstance(thing, LRScheduler)
                ways = "Write Schedule(lambda optimizer: ...)." if is_moved else "Bring it as a field: fields()."
                told += f": {missing}. {ways} Its code: {source}."
                found.append(Finding("warning", "kept outside", (path,), told))
    return found


def _carried_over(assembly: Assembly) -> Iterator[Finding]:
    """What an evaluation goes on with batch by batch, and nobody sets back before it begins."""
    sources = {place.path: place.contract.source for place in assembly.places}
    sources |= {hung.path: hung.hook.contract.source for place in assembly.places for hung in place.hooks}
    for phase in (one for one in assembly.places if _is_phase(one, EvaluationPhase)):
        below = [place for child in phase.children.values() for place in child.walk()]
        in_rounds = {name for _, access in _in_rounds(assembly, phase) for name in access.field_writes}
        set_back = {name for access in _between_rounds(assembly, phase) for name in access.field_writes}
        for path, access in actors(below):
            for name in access.field_writes:
                spec = assembly.names.get(name)
                lasts = spec is not None and (spec.scope == "run" or (spec.scope == "epoch" and name in in_rounds))
                if lasts and name in access.reads and name not in set_back:
                    told = f"{path} adds to {name!r} in every batch of {phase.path}, and nobody sets it back:"
                    before = "a batch of training" if name in in_rounds else "this one"
                    ways = f"the next evaluation goes on from {before}. Let it begin anew: field(scope='phase')."
                    yield Finding("warning", "carried over", (path,), f"{told} {ways} Its code: {sources[path]}.")


def _in_rounds(assembly: Assembly, phase: Place) -> Iterator[tuple[str, Access]]:
    """Who acts in the rounds of the other phases."""
    own = set(map(id, phase.ancestors()))
    others = [one for one in assembly.places if _is_phase(one, Phase) and id(one) not in own]
    return actors([place for other in others for child in other.children.values() for place in child.walk()])


def _between_rounds(assembly: Assembly, phase: Place) -> Iterator[Access]:
    """What those declare who may act between a round of another phase and the first one of this phase."""
    outer = set(map(id, phase.ancestors())) - {id(phase)}
    for place in assembly.places:
        around = [one for one in place.ancestors() if _is_phase(one, Phase) and id(one) not in outer]
        if not around or place is phase:
            yield place.access
            yield from (hung.access for hung in place.hooks)
        elif place is around[0]:
            yield from (hung.access for hung in (*place.around, *place.after))


def _is_phase(place: Place, kind: type) -> bool:
    return place.kind == "stage" and isinstance(place.stage, kind)


def _unregistered(state: State) -> Iterator[Finding]:
    """Modules and parameters that wait to be trained in a plain list or dictionary of a module."""
    for field, root in state.components(nn.Module).items():
        known = {id(one) for one in (*root.modules(), *root.parameters())}
        for path, module in root.named_modules():
            for name, value in vars(module).items():
                listed = value if isinstance(value, list | tuple) and len(value) > 1 else ()
                things = value.values() if isinstance(value, dict) else listed
                hidden = [one for one in things if isinstance(one, nn.Module | nn.Parameter) and id(one) not in known]
                if not name.startswith("_") and any(_is_trained(one) for one in hidden):
                    full = ".".join(part for part in (field, path, name) if part)
                    told = f"{full} is {a_kind(value)} with {len(hidden)} modules or parameters to be trained"
                    missing = "PyTorch does not find them there: no optimizer, no checkpoint, no device"
                    ways = "Use nn.ModuleList, nn.ModuleDict or nn.ParameterList."
                    yield Finding("warning", "kept outside", (field,), f"{told}: {missing}. {ways}")


def _one_under_two_names(assembly: Assembly, state: State) -> Iterator[Finding]:
    """A module that two fields hold, whose parameters somebody writes under either name: a copy that is none."""
    names: dict[int, str] = {}
    written = {name for _, access in actors(assembly.places) for name in access.writes}
    for field, module in state.components(nn.Module).items():
        other = names.setdefault(id(module), field)
        if other != field and {f"{field}.params", f"{other}.params"} <= written and _is_trained(module):
            told = f"{other!r} and {field!r} are one and the same module: whoever changes one changes the other."
            yield Finding("warning", "shared memory", (other, field), f"{told} Give a copy: copy.deepcopy({other}).")


def _in_one_memory(state: State) -> Iterator[Finding]:
    """Two parameters to be trained with one memory: tied by their data, so that an optimizer steps twice."""
    held = set(map(id, optimized(*state.components(Optimizer).values())))
    names: dict[tuple[int, int], tuple[str, nn.Parameter]] = {}
    for field, name, parameter in trained(state.components(nn.Module)):
        is_read = parameter.layout == torch.strided and not is_lazy(parameter)
        if id(parameter) not in held or not is_read or not parameter.data_ptr():
            continue
        full = f"{field}.params.{name}"
        other, first = names.setdefault((parameter.data_ptr(), parameter.numel()), (full, parameter))
        if first is not parameter:
            told = f"{other} and {full} are two parameters in one memory: an update steps it once for each of them."
            yield Finding(
                "warning",
                "shared memory",
                (other, full),
                f"{told} Tie them as one object, b.weight = a.weight, or compute with one of them.",
            )


def _is_trained(one: nn.Module | nn.Parameter) -> bool:
    parameters = one.parameters() if isinstance(one, nn.Module) else [one]
    return any(parameter.requires_grad for parameter in parameters)


def _actors(assembly: Assembly) -> Iterator[tuple[str, str, list[tuple[str, Any]]]]:
    """Each stage and each hook that may change anything: its path, its source and what it has at hand."""
    for place in assembly.places:
        if place.has_own_code:
            yield place.path, place.contract.source, of_stage(place.stage)
        for hung in place.hooks:
            if not hung.hook.observes:
                yield hung.path, hung.hook.contract.source, of_hook(hung.hook)
