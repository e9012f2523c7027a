"""Finished runs and long-tailed data sets on the Hugging Face hub: pushed with a card, pulled without their recipe.

Needs ``huggingface_hub``, of the extra ``recipes``. Whatever goes wrong on the hub is a
:class:`~ltaug.errors.UserError` of one line that says what to do. ``HF_ENDPOINT`` names another hub; ``HF_TOKEN`` or
``hf auth login`` says who asks.
"""

from ltaug.hub._client import hub_errors, hub_reason, patiently
from ltaug.hub._data import push_data, write_data_folder
from ltaug.hub._pretrained import load_pretrained
from ltaug.hub._runs import pull_run, push_run, write_model_folder

__all__ = [
    "hub_errors",
    "hub_reason",
    "load_pretrained",
    "patiently",
    "pull_run",
    "push_data",
    "push_run",
    "write_data_folder",
    "write_model_folder",
]
