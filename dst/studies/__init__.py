"""Whole accounts: one case explained, many cases measured."""
