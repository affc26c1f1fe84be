"""NumPy and SciPy only: arrays in, results out; every number has one definition here."""
