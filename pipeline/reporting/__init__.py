"""Output for people: tables on the terminal, the report of a run, and the trend of all runs."""
