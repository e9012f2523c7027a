"""Checks that a mixer, a sampler, a loss or a recipe's data keep their contract: for your own classes as for ltaug's.

Nothing has to be inherited: a mixer, sampler or loss that passes here works with everything else in the library.
In a test file of yours::

    from ltaug.testing import check_loss, check_mixer, check_sampler

    def test_my_mixer():
        check_mixer(MyMixer(num_classes=10), num_classes=10)

:func:`check_data` is for the ``data.py`` of a recipe that you have copied.

A broken rule raises :class:`ContractError`, an ``AssertionError`` that names the rule, what was seen, what was expected
and how to fix it. A check takes well under a second, needs no test runner, and leaves the random generators as they
were.
"""

from ltaug.testing._base import ContractError
from ltaug.testing.data import DATA_RULES, check_data
from ltaug.testing.losses import LOSS_RULES, check_loss
from ltaug.testing.mixers import MIXER_RULES, check_mixer
from ltaug.testing.samplers import SAMPLER_RULES, check_sampler

__all__ = [
    "DATA_RULES",
    "LOSS_RULES",
    "MIXER_RULES",
    "SAMPLER_RULES",
    "ContractError",
    "check_data",
    "check_loss",
    "check_mixer",
    "check_sampler",
]
