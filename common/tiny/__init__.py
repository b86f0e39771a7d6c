"""Base models small enough to ship: a CLIP and a language model of the built-in world, in Hugging Face folders."""
