"""LLaVA video fine-tuning: the frames of a clip as images, or as a video, among the tokens of a language model."""
