"""Adapters to other libraries, a module each: none is imported before it is asked for.

:mod:`ltaug.integrations.transformers`, :mod:`ltaug.integrations.lightning`, :mod:`ltaug.integrations.sklearn` and
:mod:`ltaug.integrations.torchmetrics` need the library of their name; :mod:`ltaug.integrations.datasets` needs none.
"""
