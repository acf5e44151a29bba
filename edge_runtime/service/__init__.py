"""The device program as a service: its state for people, the watchdog, and configs that change while it runs."""
