"""Attacks on our own releases, by someone who knows all but the frame: head, mechanism, public pictures.

`epsilon` observes what leaves for two inputs and says how large ε must be at least. `likelihood` says how probable
a payload is for each candidate frame, exactly; `posterior` turns that into the best guess: which candidate it was,
and what the picture looked like. `linear` learns an inverse of the release from public pictures. Tests and
benchmarks run them; neither program imports any of this.
"""

from split_model.audit.bounds import at_least, at_most
from split_model.audit.epsilon import Finding, Observed, lower_bound

__all__ = ["Finding", "Observed", "at_least", "at_most", "lower_bound"]
