"""What produces the figures and claims of the README and docs/. Each module's docstring says how to run it and what to expect."""
