"""Public benchmarks to cases: one module per family, each saying what it derives and leaves out."""
