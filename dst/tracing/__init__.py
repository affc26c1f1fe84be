"""Runs a model, returns results."""
