"""The server's cost per answer, how it shares its cores among devices, and its behaviour under overload."""
