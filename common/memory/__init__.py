"""How much memory a run needs on each device, by part, before anything is built for real."""
