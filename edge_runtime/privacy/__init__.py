"""The release of features on this device, and the privacy ledger that pays for it."""
