"""What the server costs an answer, how it shares its cores among devices, and what it does under overload."""
