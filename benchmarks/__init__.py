"""The benchmarks behind the figures in the README and docs/. Each module's docstring says how to run it and what to expect."""
