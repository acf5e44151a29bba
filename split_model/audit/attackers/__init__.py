"""The attackers, one module each, with the paper it follows. All know bundle, mechanism and public pictures."""
