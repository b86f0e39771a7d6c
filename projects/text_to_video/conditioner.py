"""The conditioner: all frames of a clip, summed up in a few tokens for one frame at a time.

A Perceiver resampler (arXiv:2204.14198, section 3.1.1): learned queries read the patches of all frames (the media) and
each other, layer by layer, while the media stay as they are. Only one token tells which frame the summary is for, so
the keys and values of the media, which are half of a layer's arithmetic, are computed once for all target frames.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class PerceiverAttention(nn.Module):
    """Attention of queries to media, to tokens of their own target, and to themselves; with biases, as published."""

    def __init__(self, *, width: int, heads: int, dim_head: int) -> None:
        """
        Args:
            width: D of queries and media.
            heads: number of heads.
            dim_head: width of each.
        """
        super().__init__()
        self.heads = heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * dim_head)
        self.to_kv = nn.Linear(width, 2 * heads * dim_head)
        self.to_out = nn.Linear(heads * dim_head, width)

    def media(self, tokens: Tensor) -> Tensor:
        """Keys and values of tokens (B, N, D): (2, B, H, N, E)."""
        return self._split(self.to_kv(self.norm_media(tokens)))

    def forward(self, latents: Tensor, shared: Tensor, own: Tensor | None, visible: Tensor | None) -> Tensor:
        """
        Args:
            latents: queries of m targets, (B, m, Q, D).
            shared: keys and values of the media, (2, B, H, N, E).
            own: a token for each target, (B, m, 1, D).
            visible: which media each target may see, bool (B, m, N); all if None.

        Returns:
            (B, m, Q, D).
        """
        rows, targets, queries, _ = latents.shape
        latents = self.norm_latents(latents).flatten(0, 1)
        parts = [shared.unsqueeze(2).expand(-1, -1, targets, -1, -1, -1).flatten(1, 2)]
        if own is not None:
            parts.append(self.media(own.flatten(0, 1)))
        parts.append(self._split(self.to_kv(latents)))
        keys, values = torch.cat(parts, dim=3)
        mask = None
        if visible is not None:
            mask = F.pad(visible.flatten(0, 1), (0, keys.shape[2] - visible.shape[2]), value=True)[:, None, None]
        query = self.to_q(latents).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        read = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return self.to_out(read.transpose(1, 2).flatten(2)).view(rows, targets, queries, -1)

    def _split(self, joined: Tensor) -> Tensor:
        return joined.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)


class PerceiverLayer(nn.Module):
    """Attention and a feed-forward part without biases, each added to what it reads."""

    def __init__(self, *, width: int, heads: int, dim_head: int, checkpointing: bool) -> None:
        """
        Args:
            width: D.
            heads: of the attention.
            dim_head: width of each.
            checkpointing: recompute what a target frame needs in the backward pass; keys and values of the media stay.
        """
        super().__init__()
        self.checkpointing = checkpointing
        self.attention = PerceiverAttention(width=width, heads=heads, dim_head=dim_head)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(
        self, latents: Tensor, media: Tensor, own: Tensor | None, visible: Tensor | None, chunk: int | None
    ) -> Tensor:
        """
        Args:
            latents: queries of m targets, (B, m, Q, D).
            media: tokens of the clips, (B, N, D).
            own: a token for each target, (B, m, 1, D).
            visible: which media each target may see, bool (B, m, N); all if None.
            chunk: targets that attend together; all if None.

        Returns:
            (B, m, Q, D).
        """
        shared = self.attention.media(media)
        parts = []
        for start in range(0, latents.shape[1], chunk or latents.shape[1]):
            part = slice(start, start + (chunk or latents.shape[1]))
            arguments = (
                latents[:, part],
                shared,
                None if own is None else own[:, part],
                None if visible is None else visible[:, part],
            )
            if self.checkpointing and torch.is_grad_enabled():
                parts.append(checkpoint(self._read, *arguments, use_reentrant=False))
            else:
                parts.append(self._read(*arguments))
        return torch.cat(parts, dim=1)

    def _read(self, latents: Tensor, shared: Tensor, own: Tensor | None, visible: Tensor | None) -> Tensor:
        latents = latents + self.attention(latents, shared, own, visible)
        return latents + self.feed_forward(latents)


class Conditioner(nn.Module):
    """Patches of all frames to Q context tokens for each target frame.

    At 64 frames, 512 queries and 16 x 256 heads of a width of 1024 it has the published number of parameters:
    505,650,176 with 20 layers, 304,167,936 with 12 (`level_token` adds to that: width^2 + width).
    """

    def __init__(
        self,
        *,
        channels: int,
        frames: int,
        patch: int,
        depth: int,
        queries: int,
        heads: int,
        dim_head: int,
        width: int,
        steps: int = 1000,
        time_token: bool = True,
        target_token: bool = True,
        target_in_queries: bool = False,
        level_token: bool = False,
        checkpointing: bool = False,
    ) -> None:
        """
        Args:
            channels: C of a latent.
            frames: most frames of a clip.
            patch: side of a patch, in cells of the latent grid.
            depth: layers.
            queries: Q, context tokens.
            heads: of each attention.
            dim_head: width of each head.
            width: D of the tokens.
            steps: timesteps of the noise schedule.
            time_token: whether a token tells the timestep of the frames.
            target_token: whether a token tells which frame the summary is for.
            target_in_queries: whether that token is also added to the queries, which published weights do not know; it
                takes no parameters.
            level_token: whether a token tells how noisy the frames are, 0 to 1; not in the published model.
            checkpointing: recompute each layer in the backward pass.
        """
        super().__init__()
        if width % 4:
            raise ValueError(f"model.kind.width={width}: the positions of patches need a multiple of 4")
        if target_in_queries and not target_token:
            raise ValueError("model.kind.target_in_queries=true needs model.kind.target_token=true")
        self.frames, self.patch, self.width, self.steps = frames, patch, width, steps
        self.patches = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.frame_position = nn.Parameter(torch.randn(frames, width))
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.time = nn.Embedding(steps, width) if time_token else None
        self.target = nn.Embedding(frames, width) if target_token else None
        self.level = nn.Linear(width, width) if level_token else None
        self.target_in_queries = target_in_queries
        self.layers = nn.ModuleList(
            PerceiverLayer(width=width, heads=heads, dim_head=dim_head, checkpointing=checkpointing)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        clips: Tensor,
        targets: Tensor,
        *,
        time: Tensor | None = None,
        level: Tensor | None = None,
        causal: bool = False,
        chunk: int | None = None,
    ) -> Tensor:
        """The summaries of clips for their target frames.

        Args:
            clips: scaled latents with noise, (B, F, C, h, w).
            targets: frames that the summaries are for, int64 (B, m).
            time: timesteps (B,), where a token tells them; times between two steps are rounded.
            level: of the noise (B,), where a token tells it.
            causal: whether a target sees only the frames before it.
            chunk: targets that attend together, to bound the memory; all if None.

        Returns:
            (B, m, Q, D), float32 outside autocast.

        Raises:
            ValueError: too many frames, or a latent grid that patches do not fill.
        """
        media = self._media(clips, time=time, level=level)
        latents = self.queries.expand(*targets.shape, -1, -1)
        own = None if self.target is None else self.target(targets).unsqueeze(2)
        if self.target_in_queries and own is not None:
            latents = latents + own
        visible = self._visible(clips, targets, len(media[0])) if causal else None
        for layer in self.layers:
            latents = layer(latents, media, own, visible, chunk)
        return self.norm(latents)

    def refuse_shape(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError for too many frames, or a latent grid that patches do not fill."""
        if frames > self.frames:
            raise ValueError(f"a clip of {frames} frames, but model.kind.frames={self.frames}")
        if height % self.patch or width % self.patch:
            raise ValueError(f"latents of {height} x {width} are not whole patches: model.kind.patch={self.patch}")

    def _media(self, clips: Tensor, *, time: Tensor | None, level: Tensor | None) -> Tensor:
        """Tokens that all targets of a clip share, patches first: (B, N, D)."""
        frames = clips.shape[1]
        self.refuse_shape(frames, *clips.shape[-2:])
        assert (time is None) == (self.time is None)
        assert (level is None) == (self.level is None)
        patches = self.patches(clips.flatten(0, 1).to(self.queries.dtype))
        places = grid_positions(self.width, *patches.shape[-2:]).to(patches)
        tokens = (patches.flatten(2).transpose(1, 2) + places).unflatten(0, clips.shape[:2])
        tokens = (tokens + self.frame_position[:frames, None]).flatten(1, 2)
        if self.time is not None and time is not None:
            tokens = torch.cat([tokens, self.time(time.round().long()).unsqueeze(1).to(tokens.dtype)], dim=1)
        if self.level is not None and level is not None:
            waves = get_timestep_embedding(level * self.steps, self.width).to(tokens)
            tokens = torch.cat([tokens, self.level(waves).unsqueeze(1).to(tokens.dtype)], dim=1)
        return tokens

    def _visible(self, clips: Tensor, targets: Tensor, tokens: int) -> Tensor:
        """Patches of frames before the target, and the tokens that are no patches: bool (B, m, N)."""
        frames = clips.shape[1]
        cells = (clips.shape[-2] // self.patch) * (clips.shape[-1] // self.patch)
        earlier = torch.arange(frames, device=targets.device) < targets.unsqueeze(-1)
        return F.pad(earlier.repeat_interleave(cells, dim=-1), (0, tokens - frames * cells), value=True)


def grid_positions(width: int, rows: int, columns: int) -> Tensor:
    """Sines and cosines of the places on a grid (arXiv:2111.06377, appendix A.1, as its authors' code does it).

    Args:
        width: D, a multiple of 4; the first half tells the column, the second the row.
        rows: of the grid.
        columns: of the grid.

    Returns:
        float32 (rows * columns, D), row by row.
    """
    rates = torch.exp(-math.log(10000.0) * torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    halves = []
    for place in (column, row):
        angles = place.flatten()[:, None] * rates
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, dim=1).float()
