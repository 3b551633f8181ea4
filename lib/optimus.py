"""Optimus, the text VAE: BERT writes a sentence into one vector, GPT-2 reads it back.

    encode   ids -> BERT -> pooled = tanh(W h_[CLS] + b) -> linear -> (mu, logvar)   latent z = mu
    decode   z enters GPT-2 twice:
             - linear_emb(z) is added to the embedding of every input token;
             - linear(z), cut in one slice per layer, stands before the first token as a position
               of its own whose key *and* value are that slice (never projected, no query).

The first is a bias on what every token means, the second a memory that each layer can look up. In
terms of transformers' GPT-2 the second is a cache that already holds one position, so no copy of
GPT-2 is needed; the real tokens are numbered from 1, the prefix being position 0.

Source: Li et al., "Optimus: Organizing Sentences via Pre-trained Modeling of a Latent Space",
arXiv 2004.04092, as used by Versatile Diffusion (arXiv 2211.08332).
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2LMHeadModel

from lib.buffers import materialize_after_load
from lib.config import OptimusConfig
from lib.noise import SampleNoise

ATTENTION = ("sdpa", "eager")
# transformers renamed GPT-2's argument; the versions allowed here have one name or both
CACHE = "cache" if "cache" in signature(GPT2LMHeadModel.forward).parameters else "past_key_values"


def check_attention(attention: str) -> str:
    """Return `attention`, or raise ValueError if it is none of `ATTENTION`."""
    if attention not in ATTENTION:
        raise ValueError(
            f"There is no attention {attention!r}: choose from {', '.join(ATTENTION)}."
        )
    return attention


class OptimusEncoder(nn.Module):
    """BERT with its pooler, then one bias-free projection to mean and log-variance.

    Args:
        cfg: sizes.
        attention: `"sdpa"` (torch's fused kernel, the default) or `"eager"` (plain matmul, softmax,
            matmul). Same numbers; on a CPU short sequences train faster with `"eager"` (see
            `benchmarks/attention.py`).
        dropout: of attention weights and hidden states, in training mode only.
    """

    def __init__(self, cfg: OptimusConfig, attention: str = "sdpa", dropout: float = 0.0):
        super().__init__()
        self.cfg = cfg
        self.bert = BertModel(
            BertConfig(
                vocab_size=cfg.bert_vocab,
                hidden_size=cfg.hidden,
                intermediate_size=cfg.intermediate,
                num_hidden_layers=cfg.layers,
                num_attention_heads=cfg.heads,
                max_position_embeddings=cfg.bert_positions,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                pad_token_id=0,
                attn_implementation=check_attention(attention),
            ),
            add_pooling_layer=True,
        )
        self.linear = nn.Linear(cfg.hidden, 2 * cfg.latent, bias=False)
        materialize_after_load(self)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior of the latent, `q(z | text) = N(mu, exp(logvar))`.

        Args:
            ids: (B, L) word pieces with [CLS] first and [SEP] last, padded with 0.
            mask: (B, L), nonzero where a token counts; None means `ids > 0`.

        Returns:
            mu, logvar: each (B, latent), not scaled.
        """
        if mask is None:
            mask = ids > 0
        pooled = self.bert(input_ids=ids, attention_mask=mask.long()).pooler_output
        mu, logvar = self.linear(pooled).chunk(2, dim=-1)
        return mu, logvar


class OptimusDecoder(nn.Module):
    """GPT-2 that carries the latent as an added embedding and as one prefix position per layer.

    The head is tied to the token embedding. `state_dict` names the tied tensor twice, as
    checkpoints do; loading accepts it once or twice, and ties it again (`assign=True` would
    otherwise leave two tensors that drift apart in training).

    Args:
        cfg: sizes.
        attention: `"sdpa"` or `"eager"`, see `OptimusEncoder`.
        dropout: of embeddings, attention weights and residuals, in training mode only.
    """

    def __init__(self, cfg: OptimusConfig, attention: str = "sdpa", dropout: float = 0.0):
        super().__init__()
        self.cfg = cfg
        self.gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=cfg.gpt2_vocab,
                n_positions=cfg.gpt2_positions,
                n_embd=cfg.gpt2_hidden,
                n_layer=cfg.gpt2_layers,
                n_head=cfg.gpt2_heads,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                bos_token_id=None,
                eos_token_id=None,
                attn_implementation=check_attention(attention),
            )
        )
        self.linear = nn.Linear(cfg.latent, cfg.gpt2_layers * cfg.gpt2_hidden, bias=False)
        self.linear_emb = nn.Linear(cfg.latent, cfg.gpt2_hidden, bias=False)
        # A key that starts small attracts no more attention than any token: GPT-2's own deviation.
        nn.init.normal_(self.linear.weight, std=0.02)
        self._tie_head()
        materialize_after_load(self)
        self.register_load_state_dict_post_hook(_tie_head_after_load)

    def _tie_head(self) -> None:
        self.gpt2.lm_head.weight = self.gpt2.transformer.wte.weight

    def _prefix(self, z: Tensor) -> DynamicCache:
        """A cache that holds one position: in each layer, key = value = its slice of linear(z)."""
        slices = rearrange(
            self.linear(z),
            "b (layer head d) -> layer b head 1 d",
            layer=self.cfg.gpt2_layers,
            head=self.cfg.gpt2_heads,
        )
        cache = DynamicCache()
        for layer, key in enumerate(slices):
            cache.update(key, key, layer)
        return cache

    def _step(self, ids: Tensor, bias: Tensor, cache: DynamicCache, last_only: bool) -> Tensor:
        """Logits of `ids`, (B, L) -> (B, L or 1, vocab), after what `cache` holds. It grows."""
        past = cache.get_seq_length()  # >= 1: the prefix
        output = self.gpt2(
            inputs_embeds=self.gpt2.transformer.wte(ids) + bias,
            position_ids=torch.arange(past, past + ids.shape[1], device=ids.device)[None],
            use_cache=True,
            **{CACHE: cache},
            logits_to_keep=1 if last_only else 0,
        )
        return output.logits

    def forward(self, ids: Tensor, z: Tensor) -> Tensor:
        """Logits of the next token after every token, `log p(ids[:, 1:] | ids[:, :-1], z)`.

        Attention is causal, so padding at the end changes nothing before it: leave it out of the
        loss, no mask is needed here.

        Args:
            ids: (B, L) tokens, <BOS> first; L < gpt2_positions (the prefix takes one).
            z: (B, latent), not scaled.

        Returns:
            logits: (B, L, vocab).

        Raises:
            ValueError: shapes that do not fit, or more tokens than positions.
        """
        z = self._check(z, ids.shape[1])
        if len(ids) != len(z):
            raise ValueError(
                f"Got {len(ids)} rows of tokens and {len(z)} latents: give one for each."
            )
        return self._step(ids, self.linear_emb(z)[:, None], self._prefix(z), last_only=False)

    @torch.no_grad()
    def generate(
        self,
        z: Tensor,
        bos: int,
        eos: int,
        max_tokens: int | None = None,
        temperature: float | None = None,
        noise: SampleNoise | None = None,
    ) -> list[list[int]]:
        """Read latents back as tokens, all samples side by side, with the key/value cache.

        A sample is drawn by inverting the cumulative distribution at one uniform number per token,
        `min {k : sum_{j<=k} p_j > u}`, u from the sample's own generator: sample k is the same
        alone and in any batch. The numbers are drawn beforehand, max_tokens per sample, so that
        afterwards a generator's state does not depend on the other samples either.

        Args:
            z: (B, latent), not scaled.
            bos: the token to start from.
            eos: the token that ends a sample.
            max_tokens: at most so many new tokens; None: `cfg.max_output`.
            temperature: logits are divided by it; 0 takes the most likely token (greedy);
                None: `cfg.temperature`.
            noise: `SampleNoise` of B generators; needed unless temperature is 0.

        Returns:
            B lists of ids, each with <BOS> first, and <EOS> last if it was reached.

        Raises:
            ValueError: wrong shapes, temperature or length, or no noise to sample with.
            FloatingPointError: the latents are too large for the decoder's precision.
        """
        max_tokens = self.cfg.max_output if max_tokens is None else max_tokens
        temperature = self.cfg.temperature if temperature is None else temperature
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}: allow at least 1 token.")
        if not temperature >= 0:
            raise ValueError(f"temperature is {temperature}: give 0 (greedy) or a positive number.")
        if temperature > 0 and noise is None:
            raise ValueError(
                "Sampling needs noise: pass SampleNoise(seeds), or temperature=0 (greedy)."
            )
        z = self._check(z, max_tokens)
        if len(z) == 0:
            return []

        draws = None if temperature == 0 else noise.uniform((max_tokens,))
        if draws is not None and draws.shape != (len(z), max_tokens):
            raise ValueError(
                f"noise has {len(draws)} generators for {len(z)} latents: give one each."
            )
        bias, cache = self.linear_emb(z)[:, None], self._prefix(z)
        ids = torch.full((len(z), 1), bos, dtype=torch.long, device=z.device)
        ended = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        for i in range(max_tokens):
            logits = self._step(ids[:, -1:], bias, cache, last_only=True)[:, 0]
            if not bool(logits.isfinite().all()):  # any token would do, and be taken for a text
                raise FloatingPointError(
                    f"Decoding a text left the range of {logits.dtype}: use float32, or smaller "
                    "latents."
                )
            if draws is None:
                token = logits.argmax(-1)
            else:
                token = sample_token(logits / temperature, draws[:, i])
            # Rows that have ended go on (rows stay aligned); what they say is cut off below.
            ids = torch.cat([ids, token[:, None]], dim=1)
            ended |= token == eos
            if bool(ended.all()):
                break
        return [_until(row, eos) for row in ids.tolist()]

    def _check(self, z: Tensor, tokens: int) -> Tensor:
        """`z` in the weights' dtype; ValueError if it or the number of tokens does not fit."""
        if z.dim() != 2 or z.shape[1] != self.cfg.latent:
            raise ValueError(f"Latents have shape {tuple(z.shape)}: give (B, {self.cfg.latent}).")
        if tokens >= self.cfg.gpt2_positions:
            raise ValueError(
                f"{tokens} tokens are too many, this decoder takes {self.cfg.gpt2_positions - 1}: "
                "shorten the text or lower max_tokens."
            )
        return z.to(self.linear.weight.dtype)


def _tie_head_after_load(decoder: OptimusDecoder, incompatible: Any) -> None:
    """Accept the tied tensor once or twice in a checkpoint, and make it one parameter again."""
    missing = [key for key in incompatible.missing_keys if key.endswith("gpt2.lm_head.weight")]
    head, embedding = decoder.gpt2.lm_head.weight, decoder.gpt2.transformer.wte.weight
    twice = not missing and head is not embedding and not (head.is_meta or embedding.is_meta)
    if twice and not torch.equal(head, embedding):
        raise ValueError(
            "The checkpoint's lm_head.weight differs from its token embedding, which Optimus ties "
            "to it: give an Optimus decoder."
        )
    decoder._tie_head()
    for key in missing:
        incompatible.missing_keys.remove(key)


def sample_token(logits: Tensor, u: Tensor) -> Tensor:
    """Invert the cumulative distribution of `softmax(logits)` at `u`.

    Args:
        logits: (B, V).
        u: (B,) in [0, 1).

    Returns:
        (B,) token ids, on the logits' device. Computed on the CPU in float64: the same on every
        device, and the last of many rare tokens keeps its share.
    """
    cumulative = logits.cpu().double().softmax(-1).cumsum(-1)
    threshold = u.to(cumulative)[:, None] * cumulative[:, -1:]  # the sum is 1 but for rounding
    token = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return token.clamp(max=logits.shape[-1] - 1).to(logits.device)


def _until(row: list[int], eos: int) -> list[int]:
    """`row` up to and with its first <EOS> after the first token."""
    for i, token in enumerate(row[1:], start=1):
        if token == eos:
            return row[: i + 1]
    return row
