"""Long-tailed methods as values: what an epoch draws, how it is mixed, what is minimised, on which classifier.

A :class:`Method` holds names and numbers only, for any modality; :data:`METHODS` has those of the literature.
:meth:`Method.plan` turns one into the objects of one training, which follow the epoch and know which class prior the
trained model's logits are under::

    plan = METHODS["unimix_bayias"].plan(labels, epochs=90)
    loader = DataLoader(PairDataset(dataset), batch_size=256, sampler=plan.sampler)
    for epoch in range(90):
        plan.set_epoch(epoch)
        for batch in loader:
            inputs, targets = plan.mix(batch)
            loss = plan.criterion(model(inputs), targets)
"""

from ltaug.methods.literature import METHODS, PUBLISHED, published_settings
from ltaug.methods.method import Method
from ltaug.methods.plan import TrainingPlan, find_classifier, find_last_block, find_mixing_layers

__all__ = [
    "METHODS",
    "PUBLISHED",
    "Method",
    "TrainingPlan",
    "find_classifier",
    "find_last_block",
    "find_mixing_layers",
    "published_settings",
]
