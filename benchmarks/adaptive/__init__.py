"""How well the split follows the board and the link: the device program in virtual time against an oracle."""
