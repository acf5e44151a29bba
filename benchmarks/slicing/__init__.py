"""How long cutting a model takes, and the memory it needs."""
