"""Words everyone shares: errors, sites, cases and results. NumPy only, no model."""
