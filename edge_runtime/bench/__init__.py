"""`edge-runtime bench`: what every offered cut costs on this board and link, and where to cut."""
