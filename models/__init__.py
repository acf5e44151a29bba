"""Recipes that build or fetch models. Run them in the repository's folder: ``python -m models.MODEL.RECIPE``."""
