"""The steps of the data engine, one module each: they read tables, hand rows to workers, and write tables.

Each sees what is done already and may be killed at any moment. While a step works, its table is gone, so that
an older one never vouches for files that were meanwhile replaced.
"""
