"""What leaves the device, and the ledger that pays for it."""
