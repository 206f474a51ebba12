"""The records of runs, and the decision to start a new one."""
