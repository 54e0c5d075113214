"""What a run needs of its GPUs, and how to lay it out on them, before any of them is rented: `stiv plan`."""
