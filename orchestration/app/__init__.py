"""`stiv app`: a web page on this machine that makes videos from runs, and sets checkpoints side by side."""
