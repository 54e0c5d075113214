"""Scorers: each loads its model once, in its constructor, and names itself in `backend`.

Numbers of two backends are not comparable, so the name is stored with every score.
"""
