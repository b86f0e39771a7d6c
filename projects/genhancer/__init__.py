"""GenHancer: a generator that rebuilds a picture from one vector of CLIP teaches CLIP to see details."""
