"""Program 6: our tree, your outer loop. `inside` opens the scopes and fires the hooks; the loop is yours.

Here it stops in the middle of an epoch, as soon as the loss is low enough.
"""

from learner import Cancel
from learner.testing import events, toy_learner

learner = toy_learner()  # y = 3x, eight batches of eight numbers
loader = learner.state.train_loader
seen = events(learner)

with learner.inside("epoch/fit"):
    for batch in loader:
        loss = learner.fit_batch(batch).loss.item()
        print(f"batch {learner.state.batch_index}: loss {loss:.3f}")
        if loss < 2:
            raise Cancel("run", "low loss")

print(learner.outcome)
print(f"{learner.state.updates} updates, {learner.state.samples_seen} samples")
print("first and last hooks:", ", ".join(seen[:3]), "...", ", ".join(seen[-3:]))
