"""Plans and corrections in the frameworks of others: a module each, imported only when asked for.

:mod:`ltaug.integrations.transformers` needs transformers, :mod:`ltaug.integrations.lightning` needs Lightning;
importing ``ltaug`` needs neither.
"""
