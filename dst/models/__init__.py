"""The only code that knows an engine: backends, families, tokens, checks, loading."""
