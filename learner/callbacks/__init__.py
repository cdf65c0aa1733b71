"""Ready-made callbacks: what most runs hang into their tree on day one."""

from learner.callbacks.accuracy import Accuracy
from learner.callbacks.autocast import Autocast
from learner.callbacks.breakpoint import Breakpoint
from learner.callbacks.capture import Capture
from learner.callbacks.checkpoint import Checkpoint
from learner.callbacks.clip_gradients import ClipGradients
from learner.callbacks.early_stopping import EarlyStopping
from learner.callbacks.isolate_rng import IsolateRng
from learner.callbacks.mean import Mean
from learner.callbacks.metric import Metric
from learner.callbacks.progress import ProgressBar
from learner.callbacks.schedule import Schedule
from learner.callbacks.stop_on_non_finite import StopOnNonFinite

__all__ = [
    "Accuracy",
    "Autocast",
    "Breakpoint",
    "Capture",
    "Checkpoint",
    "ClipGradients",
    "EarlyStopping",
    "IsolateRng",
    "Mean",
    "Metric",
    "ProgressBar",
    "Schedule",
    "StopOnNonFinite",
]
