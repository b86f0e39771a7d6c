"""Paths for context tokens inside a frozen UNet of diffusers, whose own layers stay the objects that they are.

The UNet is called as ever; the tokens travel in `cross_attention_kwargs`: {"context": (N, Q, D), "keep": bool (N,)}.
Without "context", and in rows that `keep` leaves out, the UNet computes what it computed before, bit for bit. With the
default initialisation it does so with context too, until training moves the last layer of each path.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

Interface = Literal["blocks", "transformers"]
INTERFACES = ("blocks", "transformers")
NEW = "_extra"  # ends the names of all that is added


class Adapter(nn.Module):
    """A bottleneck of half the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // 2)
        self.up = nn.Linear(width // 2, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(hidden)))


class ContextBlock(nn.Module):
    """A transformer block of Stable Diffusion with three paths more, of 15 d^2 + 1039.5 d + d D parameters at width d.

    After its self-attention, attention to the context (D wide) and a feed-forward part; beside its own feed-forward
    part, a bottleneck.
    """

    def __init__(self, block: BasicTransformerBlock, *, width: int, published_init: bool) -> None:
        """
        Args:
            block: whose layers become those of this one.
            width: D of the context tokens.
            published_init: leave attention and feed-forward part at random values and only the bottleneck at zero.

        Raises:
            ValueError: a block that is not built as those of Stable Diffusion.
        """
        super().__init__()
        stock: Any = block
        if stock.norm_type != "layer_norm" or stock.attn2 is None or stock.pos_embed is not None:
            raise ValueError(f"a transformer block with norm_type={stock.norm_type}: context needs one as in SD 2.1")
        if stock.only_cross_attention:
            raise ValueError("a transformer block without self-attention: context needs one as in SD 2.1")
        self.norm1, self.attn1 = stock.norm1, stock.attn1
        self.norm2, self.attn2 = stock.norm2, stock.attn2
        self.norm3, self.ff = stock.norm3, stock.ff
        heads, dim_head = stock.num_attention_heads, stock.attention_head_dim
        self.norm_extra = nn.LayerNorm(stock.dim)
        self.attn_extra = Attention(query_dim=stock.dim, cross_attention_dim=width, heads=heads, dim_head=dim_head)
        self.norm_ff_extra = nn.LayerNorm(stock.dim)
        self.ff_extra = FeedForward(stock.dim, activation_fn="geglu")
        self.adapter_extra = Adapter(stock.dim)
        lasts: list[Any] = [self.adapter_extra.up]
        if not published_init:
            lasts += [self.attn_extra.to_out[0], self.ff_extra.net[2]]
        for layer in lasts:
            _zero(layer)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """As that of the block it replaces, in which timestep and labels have no part either: (N, h w, d)."""
        context, keep, others = _context(cross_attention_kwargs)
        hidden = hidden_states
        hidden = self.attn1(self.norm1(hidden), attention_mask=attention_mask, **others) + hidden
        if context is not None:
            hidden = _where(keep, self._read(hidden, context), hidden)
        hidden = (
            self.attn2(
                self.norm2(hidden),
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                **others,
            )
            + hidden
        )
        passed = self.ff(self.norm3(hidden)) + hidden
        if context is not None:
            passed = _where(keep, passed + self.adapter_extra(self._own(hidden)).to(passed.dtype), passed)
        return passed

    def _read(self, hidden: Tensor, context: Tensor) -> Tensor:
        read = self.attn_extra(self.norm_extra(self._own(hidden)), encoder_hidden_states=self._own(context))
        found = hidden + read.to(hidden.dtype)
        return found + self.ff_extra(self.norm_ff_extra(self._own(found))).to(hidden.dtype)

    def _own(self, value: Tensor) -> Tensor:
        """In the dtype of the paths, which train in float32 beside frozen layers of any other."""
        return value.to(self.norm_extra.weight.dtype)


class ContextTransformer(nn.Module):
    """The older way: after a frozen transformer of the UNet a copy of it that trains, with context as its text."""

    def __init__(self, transformer: Transformer2DModel, *, published_init: bool) -> None:
        """
        Args:
            transformer: becomes the frozen first half.
            published_init: leave the copy as it is instead of starting it as the identity.
        """
        super().__init__()
        self.transformer: Any = transformer
        second: Any = copy.deepcopy(transformer)
        self.copy_extra: Any = second.float()
        if not published_init:
            _zero(self.copy_extra.proj_out)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """As that of the transformer it follows, always with a tuple: ((N, d, h, w),)."""
        assert not return_dict
        context, keep, others = _context(cross_attention_kwargs)
        (hidden,) = self.transformer(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            cross_attention_kwargs=others or None,
            attention_mask=attention_mask,
            encoder_attention_mask=encoder_attention_mask,
            return_dict=False,
        )
        if context is None:
            return (hidden,)
        dtype = self.copy_extra.proj_out.weight.dtype
        (read,) = self.copy_extra(hidden.to(dtype), encoder_hidden_states=context.to(dtype), return_dict=False)
        return (_where(keep, read.to(hidden.dtype), hidden),)


def inject(unet: UNet2DConditionModel, *, width: int, interface: Interface, published_init: bool) -> None:
    """Freezes a UNet and gives it paths for context tokens that train; changes it in place.

    Args:
        unet: as Stable Diffusion's.
        width: D of the context tokens.
        interface: "blocks" adds paths inside each transformer block (211,608,480 parameters in SD 2.1 at D = 1024),
            "transformers" a copy of each transformer (273,629,120), for weights of the frame-by-frame plan.
        published_init: initialise as published, where the output differs from that of the frozen UNet at first.

    Raises:
        ValueError: an unknown interface, or a UNet that it does not fit.
    """
    if interface not in INTERFACES:
        raise ValueError(f"model.kind.interface={interface}: one of {', '.join(INTERFACES)}")
    whole: Any = unet
    whole.requires_grad_(False)
    if interface == "transformers" and whole.config.cross_attention_dim != width:
        raise ValueError(
            f"model.kind.width={width}, but with interface=transformers context takes the place of text, which is "
            f"{whole.config.cross_attention_dim} wide"
        )
    for parent in list(whole.modules()):
        for name, child in list(parent.named_children()):
            if interface == "blocks" and isinstance(child, BasicTransformerBlock):
                _replace(parent, name, ContextBlock(child, width=width, published_init=published_init))
            elif interface == "transformers" and isinstance(child, Transformer2DModel):
                _replace(parent, name, ContextTransformer(child, published_init=published_init))
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(is_new(name))


def is_new(name: str) -> bool:
    """Whether a parameter of a UNet is one that `inject` added."""
    return any(part.endswith(NEW) for part in name.split("."))


def conditions(context: Tensor | None, keep: Tensor | None = None) -> dict[str, Any] | None:
    """`cross_attention_kwargs` of a call of the UNet.

    Args:
        context: tokens, (N, Q, D); None for the frozen UNet.
        keep: rows that see theirs, bool (N,); all if None.
    """
    return None if context is None else {"context": context, "keep": keep}


def _context(given: Mapping[str, Any] | None) -> tuple[Tensor | None, Tensor | None, dict[str, Any]]:
    others = dict(given or {})
    return others.pop("context", None), others.pop("keep", None), others


def _where(keep: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    return new if keep is None else torch.where(keep.view(-1, *(1,) * (old.ndim - 1)), new, old)


def _replace(parent: nn.Module, name: str, new: nn.Module) -> None:
    old: Any = getattr(parent, name)
    new.to(device=next(old.parameters()).device)
    if (
        isinstance(new, ContextBlock) and old._compiled_call_impl is not None
    ):  # its layers move on, its program does not
        new.compile()
    setattr(parent, name, new)


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
