"""The demonstration: a network that learns handwritten digits, and what its run left to be asked about."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learner import answers
from learner.callbacks import Accuracy, Checkpoint, ProgressBar
from learner.learner import Learner
from stages.draw import draw_mermaid
from state.errors import MissingExtra
from state.runs import LOG_FILE

_FILES = {
    "checkpoints": "what it takes to go on from there",
    "lock": "keeps a second process out while it runs",
    "loss.png": "the curves",
    LOG_FILE: "the change log",
    "tree.mmd": "the tree, for any viewer of Mermaid; a dotted arrow leads to or from an observer",
}


def make_learner(run_dir: str | Path | None = None, *, progress: ProgressBar | None = None) -> Learner:
    """The Learner of the demonstration; `learner graph learner.demo:make_learner` shows its tree.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("The data of the demo comes with scikit-learn", "demo") from None
    torch.manual_seed(0)
    digits = load_digits()  # 1,797 images of 8x8 in the order they were collected
    order = torch.randperm(len(digits.target))
    inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    targets = torch.tensor(digits.target)[order]
    train = DataLoader(TensorDataset(inputs[:1500], targets[:1500]), batch_size=64, shuffle=True)
    valid = DataLoader(TensorDataset(inputs[1500:], targets[1500:]), batch_size=256)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    keeping = [] if run_dir is None else [Checkpoint(every="5 epochs", best="valid_accuracy")]
    return Learner(
        model,
        F.cross_entropy,
        optimizer,
        train=train,
        valid=valid,
        callbacks=[Accuracy(), progress or ProgressBar(), *keeping],
        run_dir=run_dir,
    )


def run_demo(epochs: int = 20, run_dir: str | Path = "runs/demo", *, as_json: bool = False) -> None:
    """Train, show what was recorded, and leave the log, the tree and the curves in the directory of the run.

    With `as_json` the answer is JSON, and progress goes to standard error.

    Raises:
        MissingExtra: scikit-learn or matplotlib is not installed; nothing has been written then.
    """
    try:
        import matplotlib.figure  # noqa: F401, asked for now, so that no run is trained in vain
    except ImportError:
        raise MissingExtra("The demo draws its curves with matplotlib", "demo") from None
    learner = make_learner(run_dir, progress=ProgressBar(file=sys.stderr) if as_json else None)
    torch.set_num_threads(1)  # matrices this small gain nothing from more, and lose much on a busy machine
    assert learner.run_dir is not None
    family, run = str(run_dir), learner.run_dir
    (run / "tree.mmd").write_text(draw_mermaid(learner.assembly) + "\n", encoding="utf-8")
    try:
        history = learner.fit(epochs=epochs)
    except KeyboardInterrupt:
        answers.show_next("log", family)
        raise
    history.plot().savefig(run / "loss.png", dpi=120)
    last = learner.log.blame("model.params")
    count, tail = len(learner.log), learner.log.tail(8)
    tree = repr(learner)
    learner.close()
    if as_json:
        written = sorted(str(path) for path in run.iterdir())
        answers.show_json({"run": str(run), "epochs": list(history), "blame": last, "files": written})
        return
    answers.show("\nThe tree that ran: slots, their hooks, what each reads -> writes", "bold")
    answers.show_tree(tree)
    answers.show("\nEach epoch", "bold")
    answers.show(repr(history))
    answers.show(f"\nThe last of {count:,} records in the change log", "bold")
    answers.show_changes(tail)
    answers.show("\nWho wrote model.params last?", "bold")
    answers.show(str(last))
    answers.show(f"\nIn {run}/", "bold")
    for path in sorted(run.iterdir()):
        answers.show(f"  {path.name:<13} {_FILES.get(path.name, '')}".rstrip())
    answers.show(f"\nnext: {answers.command('blame', family, 'model.params')}")
    answers.show(f"      {answers.command('history', family, 'valid_accuracy')}")
    answers.show(f"      {answers.command('checkpoints', family)}")
    answers.show(f"      {answers.command('graph', 'learner.demo:make_learner')}")
