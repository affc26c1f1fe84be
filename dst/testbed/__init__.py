"""Worlds whose truth is known: a small English, and the recipe of the model that learned it."""
