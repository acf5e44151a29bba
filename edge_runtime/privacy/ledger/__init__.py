"""The privacy ledger: all releases since the device's first start, and the remaining budgets."""

from edge_runtime.privacy.ledger.account import Account, Paying
from edge_runtime.privacy.ledger.amounts import Amount, epsilon_units, of_event
from edge_runtime.privacy.ledger.ledger import Ledger, system_now
from edge_runtime.privacy.ledger.state import LedgerState, Limits, Now, Refusal
from edge_runtime.privacy.ledger.store import LedgerError, read

__all__ = [
    "Account",
    "Amount",
    "Ledger",
    "LedgerError",
    "LedgerState",
    "Limits",
    "Now",
    "Paying",
    "Refusal",
    "epsilon_units",
    "of_event",
    "read",
    "system_now",
]
