"""The commands. Each composes the configuration, checks it, builds what it names, and runs it."""
