"""Learns codebooks for the strict release from public data."""
