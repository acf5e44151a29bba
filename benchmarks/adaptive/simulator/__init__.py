"""The device program in virtual time, and the policies that `adaptive` compares it with."""
