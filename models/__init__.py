"""Recipes that build or fetch models. Run one in the repository's folder: ``python -m models.MODEL.RECIPE``."""
