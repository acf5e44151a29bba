"""Attacks on our own releases, for tests and benchmarks: what an eavesdropper who knows everything can find out."""

from split_model.audit.bounds import at_least, at_most
from split_model.audit.epsilon import Finding, Observed, lower_bound

__all__ = ["Finding", "Observed", "at_least", "at_most", "lower_bound"]
