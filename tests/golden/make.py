"""Makes the golden checkpoints of a release, once: `python -m tests.golden.make 1.0`. They are never made again."""

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from learner import Learner
from learner.checkpoints import Checkpoints
from tests.golden.programs import EPOCHS, PROGRAMS

KEPT = Path(__file__).parent / "checkpoints"
SIXTH = 6  # in the second epoch


def held(learner: Learner) -> dict[str, Any]:
    """What State holds that a checkpoint keeps, as JSON has it; floats come back as they were."""
    values = learner.state.__dict__
    return {
        "weights": {name: _plain(value) for name, value in learner.state.model.state_dict().items()},
        "moments": [_plain(one["exp_avg"]) for one in learner.state.optimizer.state.values()],
        "lr": [group["lr"] for group in learner.state.optimizer.param_groups],
        "numbers": {name: value for name, value in sorted(values.items()) if isinstance(value, int | float)},
        "history": [{name: value for name, value in row.items() if name != "seconds"} for row in learner.history],
    }


def _plain(tensor: Tensor) -> Any:
    return tensor.tolist()


def main(release: str) -> None:
    """Make those of a release."""
    folder = KEPT / release
    folder.mkdir(parents=True)
    for name, make in PROGRAMS.items():
        with TemporaryDirectory() as place:
            learner = make(Path(place) / "run")
            learner.fit(epochs=EPOCHS)
            assert learner.run_dir is not None
            if name == "at-rest":
                learner.save(folder / name)
            else:
                found = [one for one in Checkpoints(learner.run_dir) if "window" in one.run()["standing"][0]]
                found = found or list(Checkpoints(learner.run_dir))
                shutil.copytree(found[SIXTH - 1].path, folder / name)
            learner.close()
            again = make(Path(place) / "again")
            again.load(folder / name)
            (folder / f"{name}.json").write_text(json.dumps(held(again), indent=1) + "\n")
            again.close()


if __name__ == "__main__":
    main(sys.argv[1])
