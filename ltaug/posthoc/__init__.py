"""Prior correction of logits: the one shift that training losses and test-time corrections share."""

from ltaug.posthoc.shift import log_prior_shift, shift_logits

__all__ = ["log_prior_shift", "shift_logits"]
