"""From what CLIP sees to what the denoiser is conditioned on."""

from typing import Any, cast

from torch import Tensor, nn

from common.shapes import expect

ADAPTER_WIDTH = 2048


def head(width: int, out: int) -> nn.Sequential:
    """LayerNorm -> Linear -> GELU -> Linear, (..., width) to (..., out)."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))


class Heads(nn.Module):
    """The two heads that read a class embedding; for CLIP L/14 of 1.18 M and 19.93 M parameters."""

    def __init__(self, *, width: int, vector: int = 768, context: int | None = 4096) -> None:
        """
        Args:
            width: D of the embedding.
            vector: width of what modulates every block.
            context: width of a context token; None where something else is the context.
        """
        super().__init__()
        self.to_vector = head(width, vector)
        self.to_context = None if context is None else head(width, context)

    def vector(self, embeddings: Tensor) -> Tensor:
        """(B, K, D) to (B, vector): the mean over the frames of what the head makes of each."""
        expect(embeddings, "B K D", name="embeddings")
        projected: Tensor = self.to_vector(embeddings)
        return projected.mean(dim=1)

    def context(self, embeddings: Tensor) -> Tensor:
        """(B, K, D) to (B, K, context): a token a frame."""
        expect(embeddings, "B K D", name="embeddings")
        assert self.to_context is not None, "these heads were built without a context"
        return cast(Tensor, self.to_context(embeddings))


class PatchAdapter(nn.Module):
    """Patch states as context, the negative ablation of the paper; for ViT-L of 10.50 M parameters."""

    def __init__(self, *, hidden: int, context: int = 4096, inner: int = ADAPTER_WIDTH) -> None:
        """
        Args:
            hidden: width of a patch state.
            context: width of a context token.
            inner: width between.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden, inner), nn.SiLU(), nn.Linear(inner, context), nn.LayerNorm(context)
        )

    def forward(self, patches: Tensor) -> Any:
        """(B, K, P, hidden) to (B, K P, context)."""
        expect(patches, "B K P D", name="patches")
        return self.layers(patches.flatten(1, 2))
