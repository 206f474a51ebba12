"""What people see of a run: tables, the report, the trend."""
