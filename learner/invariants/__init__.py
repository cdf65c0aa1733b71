"""The invariants that a Learner has unless it is told otherwise: what is so in any training, whoever wrote it."""

from functools import partial

from learner.invariants.batches import Redraws, Repeats, Untouched, same_length
from learner.invariants.gradients import Discarded, Kept, Leaks, Thawed, Ungraded, unused_gradients
from learner.invariants.modes import frozen_statistics, in_eval_mode, in_train_mode, left_as_found, stale_statistics
from learner.invariants.updates import (
    Distinct,
    Rivals,
    moves_what_it_should,
    of_its_own,
    refers_to_what_is_held,
    updates_what_is_held,
    used_rates,
)
from stages import EvaluationPhase, Invariant, TrainingPhase, Writes
from stages.place import ROOT

_UPDATE = Writes("*.params", "*.state")
_warned = partial(Invariant, then="warn", sampled=True)


def defaults() -> tuple[Invariant, ...]:
    """New ones, as some keep what they saw. They are asked in the rounds that the guard looks at."""
    passes, forwards = Redraws("pass over the data"), Redraws("forward pass")
    untouched, ungraded, discarded, distinct, kept = Untouched(), Ungraded(), Discarded(), Distinct(), Kept()
    return (
        _warned(
            "an update changes what has a gradient, and nothing that is frozen",
            moves_what_it_should,
            around=_UPDATE,
            compares=("*.params",),
            hooks=False,
        ),
        _warned("an optimizer updates what State holds", updates_what_is_held, before=Writes("*.state"), then="raise"),
        _warned(
            "a parameter is changed by one optimizer", Rivals(), around=_UPDATE, compares=("*.params",), hooks=False
        ),
        _warned("groups of an optimizer that differ go on to differ", distinct.begin, before=ROOT, sampled=False),
        _warned("groups of an optimizer that differ go on to differ", distinct, before=Writes("*.state"), hooks=False),
        _warned("a scheduler moves an optimizer of State", refers_to_what_is_held, before=Writes("*.state")),
        _warned(
            "what is kept does not change with the parameters",
            of_its_own,
            around=_UPDATE,
            compares=("*.params",),
            hooks=False,
        ),
        _warned(
            "a hyper-parameter is used before its writer replaces it", used_rates, after=TrainingPhase, then="record"
        ),
        _warned(
            "what is to be trained gets gradients",
            ungraded.note,
            around=Writes("*.state"),
            compares=("*.params",),
            hooks=False,
        ),
        _warned("what is to be trained gets gradients", ungraded.passed, after=TrainingPhase),
        _warned("what is to be trained gets gradients", ungraded.told, after=ROOT, sampled=False),
        _warned(
            "an update uses gradients that were made for it",
            Leaks(),
            around=Writes("*.grads"),
            within=TrainingPhase,
            compares=("*.grads",),
            hooks=False,
        ),
        _warned("what a backward pass computes is used", discarded.updated, after=_UPDATE, hooks=False),
        _warned(
            "what a backward pass computes is used",
            discarded,
            around=Writes("*.grads"),
            within=TrainingPhase,
            compares=("*.grads",),
            hooks=False,
        ),
        _warned("what gets a gradient is updated", unused_gradients, before=Writes("*.state"), then="record"),
        _warned("what is thawed is updated", Thawed(), before=Writes("*.state")),
        _warned(
            "a number that outlives its batch has not the graph of each, and is not in half precision",
            kept.begin,
            before=TrainingPhase,
        ),
        _warned(
            "a number that outlives its batch has not the graph of each, and is not in half precision",
            kept.fetching,
            before=Writes("batch"),
        ),
        _warned(
            "a number that outlives its batch has not the graph of each, and is not in half precision",
            kept.ended,
            after=TrainingPhase,
        ),
        _warned("a model is trained in train mode", in_train_mode, before=Writes("*.grads"), within=TrainingPhase),
        _warned("a model is evaluated in eval mode", in_eval_mode, before=Writes("outputs"), within=EvaluationPhase),
        _warned(
            "an evaluation leaves the models as it finds them",
            left_as_found,
            around=EvaluationPhase,
            compares=("*.params", "*.buffers"),
        ),
        _warned("statistics follow the parameters that they belong to", stale_statistics, before=EvaluationPhase),
        _warned(
            "a frozen layer keeps its statistics",
            frozen_statistics,
            around=Writes("outputs"),
            within=TrainingPhase,
            compares=("*.buffers",),
            hooks=False,
        ),
        _warned("there is an output for every target", same_length, after=Writes("outputs")),
        _warned(
            "the workers of a loader make different batches", Repeats(), after=Writes("batch"), within=TrainingPhase
        ),
        _warned(
            "a batch that comes again is what it was", untouched.ended, before=Writes("batch"), within=TrainingPhase
        ),
        _warned(
            "a batch that comes again is what it was", untouched.fetched, after=Writes("batch"), within=TrainingPhase
        ),
        _warned("random numbers do not come again", passes.forget, before=ROOT, sampled=False),
        _warned("random numbers do not come again", forwards.forget, before=ROOT, sampled=False),
        _warned("random numbers do not come again", passes.begin, before=TrainingPhase, hooks=False),
        _warned("random numbers do not come again", passes.end, after=TrainingPhase, hooks=False),
        _warned(
            "random numbers do not come again",
            forwards.drew,
            around=Writes("outputs"),
            within=TrainingPhase,
            compares=("rng",),
            hooks=False,
        ),
    )
