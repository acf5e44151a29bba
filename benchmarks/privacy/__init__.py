"""The costs of releases in accuracy and time, an audit of them, and attacks on them."""
