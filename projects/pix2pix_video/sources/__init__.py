"""Where edits come from: each source lists rows of frames and instructions, and what it had to leave out."""
