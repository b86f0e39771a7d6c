"""Video-ChatGPT (arXiv:2306.05424): frozen CLIP features, a linear projector, a LLaMA."""
