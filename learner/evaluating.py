"""Evaluating: the evaluation phases of a tree by themselves, and the outputs for a loader of one's own."""

from typing import TYPE_CHECKING, Any

from learner.components import check_loader
from learner.derived import predict as predicting
from learner.errors import ArgumentError
from learner.history import numbers_of
from learner.precision import autocasts
from stages import EvaluationPhase, Runner, assemble
from stages.batch import joined
from stages.callbacks import hooks_of
from state.parts import RNG
from state.schema import upgrade

if TYPE_CHECKING:
    from learner.bound import Bound


def validate(runner: Runner) -> dict[str, float]:
    """Run every evaluation phase once; what each came to.

    Raises:
        ArgumentError: there is none, or none that comes to a number.
    """
    found: dict[str, float] = {}
    ended: list[str] = []
    for place in runner.assembly.places:
        if place.kind == "stage" and isinstance(place.stage, EvaluationPhase):
            found.update(numbers_of(runner.run(place.path), f"{place.stage.word}_"))
            ended.append(f"{place.path} ended {runner.outcome}")
    if not ended:
        raise ArgumentError("validate()", "valid", "this tree has nothing to evaluate. Give the Learner valid=.")
    if not found:
        told = f"the evaluation came to no number: {'; '.join(ended)}. A number is what Mean('loss') averages, say."
        raise ArgumentError("validate()", "valid", told)
    return found


def predict(bound: "Bound", loader: Any) -> Any:
    """The outputs for every batch of `loader`, by a tree of its own over the same state.

    Raises:
        ArgumentError: `loader` cannot be iterated.
        GraphError: the stages of the evaluation's batch cannot run so.
    """
    bound.runner.refuse_if_running()
    check_loader(loader, "loader")
    state, guard = bound.state, bound.runner.guard
    given = {"predict_loader": loader, "predictions": []}
    tree = predicting(bound.tree)
    hooks = hooks_of(autocasts(tree, bound.dtype) if bound.dtype is not None else ())
    assembly = assemble(tree, hooks, type(state), state, given)
    assembly.require_sound()
    cls = type(state)
    upgrade(state, assembly.schema)
    state.__dict__.update(given)
    bound.runner.openings.begin_run()  # it clears what a failed run, or a person, has left in scopes
    if guard is not None:
        guard.step_in(bound.runner.external)
    try:
        Runner(assembly, state).run()
        return joined(state.__dict__["predictions"])
    finally:
        if guard is not None:
            guard.accept(RNG)  # loaders draw from it
        object.__setattr__(state, "__class__", cls)
        for name in given:
            del state.__dict__[name]
