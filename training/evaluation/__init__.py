"""How good the videos of a run are: metrics, the features under them, suites of prompts, and written results."""
