"""The ways in: the `stiv` command line and the Dagster definitions."""
