"""What is so of modes: training trains, an evaluation only looks, and what is frozen stays as it is."""

from hashlib import blake2b
from typing import Any

import torch
from torch import nn

from learner.invariants.standing import warned
from learner.invariants.updates import shown, updated_by_optimizers
from stages import EvaluationPhase, Invariant, TrainingPhase, Writes
from stages.check import actors
from stages.invariants import Wrong
from stages.place import ROOT, Place
from state import ChangeLog
from state.contents import Eye


def invariants() -> tuple[Invariant, ...]:
    """What is so of modes and evaluations."""
    frozen, unmoved, name = FrozenStatistics(), Unmoved(), "an evaluation sees what training changed"
    return (
        warned(name, unmoved.begin, before=TrainingPhase),
        warned(name, unmoved.ended, after=TrainingPhase),
        warned(name, unmoved.evaluated, before=Writes("outputs"), within=EvaluationPhase),
        warned(name, unmoved.told, after=ROOT, sampled=False),
        warned("a model is trained in train mode", in_train_mode, before=Writes("*.grads"), within=TrainingPhase),
        warned("a model is evaluated in eval mode", in_eval_mode, before=Writes("outputs"), within=EvaluationPhase),
        warned(
            "an evaluation leaves the models as it finds them",
            left_as_found,
            around=EvaluationPhase,
            compares=("*.params", "*.buffers"),
        ),
        warned("statistics follow the parameters that they belong to", stale_statistics, before=EvaluationPhase),
        warned(
            "a frozen layer keeps its statistics",
            frozen,
            around=Writes("outputs"),
            within=TrainingPhase,
            compares=("*.buffers",),
            hooks=False,
        ),
        warned("a frozen layer keeps its statistics", frozen.begin, before=ROOT, sampled=False),
        warned("a frozen layer keeps its statistics", frozen.ended, after=ROOT, sampled=False),
    )


def in_train_mode(state: Any, place: Place) -> Wrong | None:
    """Who writes the gradients of a model that is trained finds it in train mode. Only the flag of the whole counts."""
    updated = updated_by_optimizers(state)
    written = place.access.owners("grads")
    for name, module in state.components(nn.Module).items():
        if name in written and not module.training and any(id(p) in updated for p in module.parameters()):
            return Wrong(f"{name} is in eval mode", (f"{name}.mode", f"{name}.mode.*"))
    return None


def in_eval_mode(state: Any, place: Place) -> Wrong | None:
    """Who computes outputs in an evaluation finds the models in eval mode. Only the flag of the whole counts."""
    read = {name.partition(".")[0] for name in place.access.reads}
    for name, module in state.components(nn.Module).items():
        if name in read and module.training:
            return Wrong(f"{name} is in train mode", (f"{name}.mode", f"{name}.mode.*"))
    return None


def left_as_found(state: Any, changed: tuple[str, ...], place: Place, log: ChangeLog) -> Wrong | None:
    """An evaluation, with what stands before and around it, gives the models back as it found them.

    Who stands before or around it may prepare a model that no optimizer trains. Who stands after it may know from it
    what to put there, such as the best weights so far. A module without parameters may count something.
    """
    modules, updated = state.components(nn.Module), updated_by_optimizers(state)
    parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in changed)
    allowed = {name for hung in (*place.before, *place.around) for name in (*hung.access.writes, *hung.access.touches)}
    for part in allowed & parts.keys():  # an average of the model may be prepared there
        if not any(id(parameter) in updated for parameter in modules[part.partition(".")[0]].parameters()):
            del parts[part]
    held = [part for part in parts if any(True for _ in modules[part.partition(".")[0]].parameters())]
    left = [part for part in held if not log.where(field=part)[-1:] or not _is_after(log, part, place)]
    names = [name for name in changed if any(name.startswith(f"{part}.") for part in left)]
    return Wrong(f"{shown(names)} changed", tuple(left)) if left else None


def _is_after(log: ChangeLog, part: str, place: Place) -> bool:
    """Whether a hook after the place wrote a part last."""
    return log.where(field=part)[-1].actor.startswith(f"{place.path}:after:")


def stale_statistics(state: Any, place: Place, log: ChangeLog) -> Wrong | None:
    """Of a model that follows another one, the statistics follow too, or somebody may make them anew."""
    modules = state.components(nn.Module)
    root = place.root
    access = [one for _, one in actors(root.walk())]
    may = {name for one in access for name in (*one.writes, *one.touches)}
    updated = updated_by_optimizers(state)
    below = [*place.walk()]
    read = {name.partition(".")[0] for _, one in actors(below) for name in one.reads}
    for name, module in modules.items():
        if name not in read:
            continue
        is_averaged = f"{name}.params" in may and not any(id(p) in updated for p in module.parameters())
        if not is_averaged or not _statistics(module) or f"{name}.buffers" in may or any(one.unsafe for one in access):
            continue
        for other, trained in modules.items():
            if other == name or _statistics(trained).keys() != _statistics(module).keys():
                continue
            pairs = zip(_statistics(module).values(), _statistics(trained).values(), strict=True)
            is_written = any(row.actor != "setup" for row in log.where(field=f"{name}.params")[-1:])
            if is_written and not all(torch.equal(one, two) for one, two in pairs):
                told = f"{name}.buffers are what they were at the start, while those of {other} moved"
                return Wrong(f"{told}: let who writes {name}.params copy them as well", (f"{name}.params",))
    return None


class Unmoved:
    """The weights that an evaluation is given of a model that was trained are not those of before the training.

    They are where an average is lent that nobody updates. An average may begin later: so it is told at the end of a run
    whose last evaluations, two at least, were all given them.
    """

    def __init__(self) -> None:
        self._begin: dict[str, bytes] = {}
        self._trained: dict[str, bytes] = {}
        self._evaluated: dict[
            tuple[str, str], tuple[bytes, int, str]
        ] = {}  # after which training, how often so, by whom

    def begin(self, state: Any) -> None:
        """Training begins: of a run that is taken up nobody knows how it began."""
        if state.values_of("run").get("updates") == 0:
            self._begin, self._evaluated = _weights(state), {}

    def ended(self, state: Any) -> None:
        """A pass of training has ended."""
        if self._begin:
            self._trained = _weights(state)

    def evaluated(self, state: Any, place: Place) -> None:
        """Outputs are to be computed in an evaluation."""
        path = next((one.path for one in place.ancestors() if one.stage is place.phase), place.path)
        for field in self._trained.keys() & {name.partition(".")[0] for name in place.access.reads}:
            trained, begin = self._trained[field], self._begin.get(field)
            known, times, _ = self._evaluated.get((path, field), (b"", 0, ""))
            if known != trained != begin:
                is_so = _bits(state.components(nn.Module)[field]) == begin
                self._evaluated[path, field] = trained, times + 1 if is_so else 0, _lent(place, field)

    def told(self) -> Wrong | None:
        """A run has ended."""
        for (path, field), (_, times, lent) in self._evaluated.items():
            if times > 1:
                return Wrong(f"{path} had the weights of {field} of before the training, {times} times by now{lent}")
        return None


def _lent(place: Place, field: str) -> str:
    """Who lends parameters around a place."""
    for hung in (hung for one in place.ancestors() for hung in one.around):
        if f"{field}.params" in hung.access.restores:
            return f", as {hung.path} lends them ({hung.hook.contract.source})"
    return ""


def _weights(state: Any) -> dict[str, bytes]:
    """What tells the weights of each model apart that an optimizer trains."""
    updated = updated_by_optimizers(state)
    modules = state.components(nn.Module).items()
    return {name: _bits(one) for name, one in modules if any(id(p) in updated for p in one.parameters())}


def _bits(module: nn.Module) -> bytes:
    """A digest of the parameters of a module."""
    eye, made = Eye(reads=True), blake2b(digest_size=16)
    seen = [eye.see(parameter) for parameter in module.parameters()]
    eye.finish()
    for one in seen:
        made.update(one.bits or b"")
    return made.digest()


def _statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one for name, one in module.named_buffers() if one.is_floating_point() and not one.is_meta}


class FrozenStatistics:
    """A layer whose parameters are all frozen keeps its running mean and variance too.

    Where an optimizer has them, they may be thawed later: it is told at the end of a run in which they were not. Of a
    model whose parameters somebody else writes than updates, such as an average of another one, nothing is asked.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], int] = {}  # (module, path in it) whose statistics moved -> version then

    def __call__(self, state: Any, changed: tuple[str, ...], place: Place) -> Wrong | None:
        """Outputs were computed in training."""
        if not changed:
            return None
        updated, modules = updated_by_optimizers(state), state.components(nn.Module)
        everyone = [one for _, one in actors(place.root.walk())]
        others = {name for one in everyone if not any(w.endswith(".state") for w in one.writes) for name in one.writes}
        for name in changed:
            field, _, below = name.split(".", 2)
            path, _, buffer = below.rpartition(".")
            layer = modules[field].get_submodule(path)
            if not _is_frozen(layer) or buffer not in _STATISTICS or f"{field}.params" in others:
                continue
            if any(id(one) in updated for one in layer.parameters(recurse=False)):
                self._waiting.setdefault((field, path), _version(layer))
                continue
            return _moved_though_frozen(field, path)
        return None

    def begin(self) -> None:
        """A run begins."""
        self._waiting.clear()

    def ended(self, state: Any) -> Wrong | None:
        """A run has ended."""
        modules = state.components(nn.Module)
        for (field, path), version in self._waiting.items():
            layer = dict(modules[field].named_modules()).get(path) if field in modules else None
            if layer is not None and _is_frozen(layer) and _version(layer) == version:
                return _moved_though_frozen(field, path)
        return None


_STATISTICS = ("running_mean", "running_var")


def _is_frozen(layer: nn.Module) -> bool:
    """Whether a layer has parameters of its own and none of them is to be trained."""
    own = list(layer.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _version(layer: nn.Module) -> int:
    """Moves when a parameter of a layer is changed."""
    return sum(parameter._version for parameter in layer.parameters(recurse=False))


def _moved_though_frozen(field: str, path: str) -> Wrong:
    name = ".".join(part for part in (field, "buffers", path, "running_mean") if part)
    told = f"{name} changed, and the parameters of that layer are frozen: put it into eval mode to keep it"
    return Wrong(told, (f"{field}.mode.frozen",))
