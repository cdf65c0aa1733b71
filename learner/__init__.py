"""How a person starts it: one door to the library. `state` and `stages` are for those who want less."""

import learner.siblings  # noqa: F401  # first of all: refuses to start with a foreign `state` or `stages`

# isort: split
from learner.batches import TensorBatches
from learner.errors import AlreadyBound, ArgumentError, LearnerError, PositionError, ResumeWarning
from learner.history import History
from learner.learner import Learner
from learner.recipes import supervised
from learner.recorder import Recorder
from learner.samples import SampleBatches
from stages import (
    Callback,
    Cancel,
    Composite,
    EvaluationPhase,
    Exhausted,
    Frame,
    GraphError,
    GuardWarning,
    Invariant,
    InvariantBroken,
    InvariantWarning,
    Outcome,
    Phase,
    Skip,
    Stage,
    StageError,
    TrainingPhase,
    UndeclaredChange,
    WatchHit,
    after,
    around,
    before,
    stage,
)
from state import ChangeLog, State, StateError, TrainState, field, invariant

__all__ = [
    "AlreadyBound",
    "ArgumentError",
    "Callback",
    "Cancel",
    "ChangeLog",
    "Composite",
    "EvaluationPhase",
    "Exhausted",
    "Frame",
    "GraphError",
    "GuardWarning",
    "History",
    "Invariant",
    "InvariantBroken",
    "InvariantWarning",
    "Learner",
    "LearnerError",
    "Outcome",
    "Phase",
    "PositionError",
    "Recorder",
    "ResumeWarning",
    "SampleBatches",
    "Skip",
    "Stage",
    "StageError",
    "State",
    "StateError",
    "TensorBatches",
    "TrainState",
    "TrainingPhase",
    "UndeclaredChange",
    "WatchHit",
    "after",
    "around",
    "before",
    "field",
    "invariant",
    "stage",
    "supervised",
]
