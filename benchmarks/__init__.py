"""Every number we claim, one script a claim, with its peer in the same run."""
