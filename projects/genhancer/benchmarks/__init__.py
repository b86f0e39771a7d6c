"""What a CLIP or SigLIP sees, measured: visual details, zero-shot accuracy, retrieval, and what its features tell."""
