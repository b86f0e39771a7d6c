"""The built-in data set: coloured shapes that move, as H.264 video, with text whose truth is known."""
