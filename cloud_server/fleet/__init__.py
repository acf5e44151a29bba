"""What devices tell of themselves, and what the server knows of them: state, rows, and the table in a terminal."""
