"""What programs on the board and the device program share: messages and socket files."""
