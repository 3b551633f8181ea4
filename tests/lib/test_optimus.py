"""The text VAE against transformers' BERT and a GPT-2 written out in plain torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.buffers import materialize_buffers
from lib.config import OptimusConfig
from lib.noise import SampleNoise
from lib.optimus import (
    OptimusDecoder,
    OptimusEncoder,
    sample_token,
)
from lib.specs import VD_FOUR_FLOW_V1_0
from lib.tokenizers import drop_first_and_last_word, remove_repeated_ngrams

CFG = OptimusConfig(
    latent=6,
    hidden=16,
    intermediate=32,
    layers=2,
    heads=2,
    bert_vocab=40,
    bert_positions=24,
    gpt2_hidden=12,
    gpt2_layers=3,
    gpt2_heads=3,
    gpt2_vocab=50,
    gpt2_positions=20,
    max_input=22,
    max_output=8,
    temperature=1.0,
)
BOS, EOS = 48, 49


def spread(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough for every part to matter in the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter.shape[-1] if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in))
    return module.eval()


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def encoder(request: pytest.FixtureRequest) -> OptimusEncoder:
    return spread(OptimusEncoder(CFG, attention=request.param))


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def decoder(request: pytest.FixtureRequest) -> OptimusDecoder:
    return spread(OptimusDecoder(CFG, attention=request.param))


def latents(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, CFG.latent, generator=torch.Generator().manual_seed(seed))


def tokens(batch: int, length: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 40, (batch, length), generator=generator)


def plain_gpt2(decoder: OptimusDecoder, ids: Tensor, z: Tensor) -> Tensor:
    """Logits by the equations, from the state dict alone: no cache, no transformers."""
    w = decoder.state_dict()
    layers, heads, width = CFG.gpt2_layers, CFG.gpt2_heads, CFG.gpt2_hidden

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]  # GPT-2 stores (in, out)

    def split(x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, heads, width // heads).transpose(1, 2)

    batch, length = ids.shape
    table = w["gpt2.transformer.wte.weight"]
    prefix = (z @ w["linear.weight"].T).reshape(batch, layers, 1, width)
    x = table[ids] + (z @ w["linear_emb.weight"].T)[:, None]
    x = x + w["gpt2.transformer.wpe.weight"][1 : length + 1]
    seen = torch.cat([torch.ones(length, 1), torch.ones(length, length).tril()], dim=1).bool()
    for i in range(layers):
        name = f"gpt2.transformer.h.{i}"
        q, k, v = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").split(width, dim=-1)
        key = split(torch.cat([prefix[:, i], k], dim=1))
        value = split(torch.cat([prefix[:, i], v], dim=1))
        score = split(q) @ key.transpose(-1, -2) / math.sqrt(width // heads)
        mixed = score.masked_fill(~seen, -math.inf).softmax(-1) @ value
        x = x + linear(mixed.transpose(1, 2).reshape(batch, length, width), f"{name}.attn.c_proj")
        hidden = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        x = x + linear(F.gelu(hidden, approximate="tanh"), f"{name}.mlp.c_proj")
    return norm(x, "gpt2.transformer.ln_f") @ table.T


def test_encoder_is_bert_pooled_and_projected(encoder):
    ids = tokens(3, 7)
    mu, logvar = encoder(ids)
    pooled = encoder.bert(input_ids=ids).pooler_output
    expected = pooled @ encoder.linear.weight.T
    assert mu.shape == logvar.shape == (3, CFG.latent)
    torch.testing.assert_close(torch.cat([mu, logvar], dim=1), expected)
    assert pooled.abs().max() < 1  # the pooler's tanh is there


def test_encoder_ignores_padding(encoder):
    ids = tokens(2, 6)
    padded = F.pad(ids, (0, 5))
    torch.testing.assert_close(encoder(padded)[0], encoder(ids)[0])
    mask = torch.ones(2, 6)
    mask[:, 4:] = 0
    torch.testing.assert_close(encoder(ids, mask)[0], encoder(ids[:, :4])[0])


def test_decoder_follows_the_equations(decoder):
    ids, z = tokens(3, 9), latents(3)
    torch.testing.assert_close(decoder(ids, z), plain_gpt2(decoder, ids, z), atol=1e-5, rtol=1e-5)


def test_latent_enters_twice(decoder):
    ids, z = tokens(1, 4), latents(1)
    whole = decoder(ids, z)
    for name in ("linear", "linear_emb"):
        other = spread(OptimusDecoder(CFG))
        with torch.no_grad():
            getattr(other, name).weight.zero_()
        assert (other(ids, z) - whole).abs().max() > 0.01


def test_padding_at_the_end_changes_nothing_before_it(decoder):
    ids, z = tokens(2, 5), latents(2)
    padded = F.pad(ids, (0, 4), value=47)
    torch.testing.assert_close(decoder(padded, z)[:, :5], decoder(ids, z), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_reach_every_parameter(attention):
    encoder = OptimusEncoder(CFG, attention=attention).train()
    decoder = OptimusDecoder(CFG, attention=attention).train()
    ids = tokens(4, 7)
    mu, logvar = encoder(ids)
    logits = decoder(ids, mu)
    loss = (
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) + logvar.square().sum()
    )
    loss.backward()
    for module in (encoder, decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            if not name.endswith(("k_proj.bias", "key.bias")):  # softmax cancels a key's bias
                assert parameter.grad.abs().sum() > 0, name


def test_training_starts_sensibly():
    torch.manual_seed(0)
    decoder = OptimusDecoder(CFG)
    ids = tokens(8, 9)
    logits = decoder(ids, latents(8))
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - math.log(CFG.gpt2_vocab)) < 0.2
    assert decoder.linear.weight.std() < 0.03


def test_greedy_with_the_cache_is_argmax_without_it(decoder):
    z = latents(3)
    made = decoder.generate(z, BOS, eos=-1, max_tokens=10, temperature=0)
    ids = torch.full((3, 1), BOS)
    for _ in range(10):
        ids = torch.cat([ids, plain_gpt2(decoder, ids, z)[:, -1:].argmax(-1)], dim=1)
    assert made == ids.tolist()


def test_samples_end_at_eos_each_for_itself(decoder):
    z = latents(12)
    whole = decoder.generate(z, BOS, eos=-1, temperature=1.0, noise=SampleNoise(range(12)))
    eos = whole[0][3]
    made = decoder.generate(z, BOS, eos=eos, temperature=1.0, noise=SampleNoise(range(12)))
    assert len({len(row) for row in made}) > 1
    for row, long in zip(made, whole, strict=True):
        assert row == long[: len(row)]
        assert eos not in row[1:-1]
        assert row[-1] == eos or len(row) == 1 + CFG.max_output


def test_a_sample_is_the_same_alone_and_in_any_batch(decoder):
    z, seeds = latents(5), [3, 1, 4, 1, 5]
    noise = SampleNoise(seeds)
    made = decoder.generate(z, BOS, EOS, noise=noise)
    after = noise.uniform(())
    for k, seed in enumerate(seeds):
        alone = SampleNoise([seed])
        assert decoder.generate(z[k : k + 1], BOS, EOS, noise=alone) == [made[k]]
        assert alone.uniform(()) == after[k]  # and its generator is left in the same state


def test_sampling_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.3, -2.0, 1.4, 0.0, -9.0])
    n = 4000
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = sample_token(logits.expand(n, -1), grid)
    assert (drawn.diff() >= 0).all()
    frequency = torch.bincount(drawn, minlength=5) / n
    assert (frequency - logits.softmax(0)).abs().max() <= 1 / n + 1e-6


def test_sampling_never_leaves_the_vocabulary_nor_takes_the_impossible():
    edge = torch.tensor([0.0, 1 - 2**-24, 1.0])
    assert sample_token(torch.randn(3, 7), edge).max() < 7
    impossible = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).expand(3, -1)
    assert set(sample_token(impossible, edge[:2].repeat(2)[:3]).tolist()) <= {1, 2}


def test_temperature_sharpens():
    decoder, z = spread(OptimusDecoder(CFG)), latents(4)
    greedy = decoder.generate(z, BOS, EOS, temperature=0)
    cold = decoder.generate(z, BOS, EOS, temperature=1e-4, noise=SampleNoise(range(4)))
    assert cold == greedy


def test_no_latents_no_texts():
    decoder = spread(OptimusDecoder(CFG))
    assert decoder.generate(latents(0), BOS, EOS, temperature=0) == []
    assert decoder.generate(latents(0), BOS, EOS, noise=SampleNoise([])) == []


@pytest.mark.parametrize("with_head", [True, False])
def test_meta_build_then_load(with_head):
    encoder, decoder = spread(OptimusEncoder(CFG)), spread(OptimusDecoder(CFG))
    with torch.device("meta"):
        both = nn.ModuleDict({"e": OptimusEncoder(CFG), "d": OptimusDecoder(CFG)}).eval()
    state = {f"e.{key}": value for key, value in encoder.state_dict().items()}
    state |= {f"d.{key}": value for key, value in decoder.state_dict().items()}
    if not with_head:
        del state["d.gpt2.lm_head.weight"]
    both.load_state_dict({key: value.clone() for key, value in state.items()}, assign=True)
    assert not any(buffer.is_meta for buffer in both.buffers())
    ids, z = tokens(2, 5), latents(2)
    assert torch.equal(both["e"](ids)[0], encoder(ids)[0])
    assert torch.equal(both["d"](ids, z), decoder(ids, z))
    gpt2 = both["d"].gpt2
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight


def test_a_head_of_its_own_is_refused():
    state = {key: value.clone() for key, value in OptimusDecoder(CFG).state_dict().items()}
    state["gpt2.lm_head.weight"] += 1
    with torch.device("meta"):
        decoder = OptimusDecoder(CFG)
    with pytest.raises(ValueError, match="differs from its token embedding"):
        decoder.load_state_dict(state, assign=True)


def test_buffers_are_written_anew():
    encoder = spread(OptimusEncoder(CFG))
    expected = encoder(tokens(2, 5))[0]
    embeddings = encoder.bert.embeddings
    embeddings.position_ids = torch.full_like(embeddings.position_ids, 3)
    embeddings.token_type_ids = torch.ones_like(embeddings.token_type_ids)
    assert not torch.allclose(encoder(tokens(2, 5))[0], expected)
    materialize_buffers(encoder)
    assert torch.equal(encoder(tokens(2, 5))[0], expected)
    assert not [key for key in encoder.state_dict() if key.endswith("_ids")]


def test_an_unknown_buffer_without_values_is_named():
    module = nn.Module()
    module.register_buffer("table", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(RuntimeError, match="table"):
        materialize_buffers(module)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_float_latents(dtype):
    decoder = spread(OptimusDecoder(CFG)).to(dtype)
    assert decoder(tokens(2, 4), latents(2)).dtype == dtype
    assert len(decoder.generate(latents(2), BOS, EOS, temperature=0)) == 2


def test_released_sizes():
    with torch.device("meta"):
        encoder = OptimusEncoder(VD_FOUR_FLOW_V1_0.text_vae)
        decoder = OptimusDecoder(VD_FOUR_FLOW_V1_0.text_vae)
    count = sum(p.numel() for p in encoder.parameters())
    assert round(count / 1e6, 1) == 109.5
    # The released file holds 183.3 M numbers: the tied table twice, and a causal mask per layer.
    head, masks = decoder.gpt2.lm_head.weight.numel(), 12 * 1024 * 1024
    count = sum(p.numel() for p in decoder.parameters()) + head
    assert round((count + masks) / 1e6, 1) == 183.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.generate(torch.zeros(2, 5), BOS, EOS, temperature=0), r"give \(B, 6\)"),
        (lambda d: d.generate(latents(2), BOS, EOS), "SampleNoise"),
        (lambda d: d.generate(latents(2), BOS, EOS, noise=SampleNoise([1])), "one each"),
        (lambda d: d.generate(latents(2), BOS, EOS, max_tokens=0), "at least 1"),
        (lambda d: d.generate(latents(2), BOS, EOS, temperature=-1.0), "greedy"),
        (lambda d: d.generate(latents(2), BOS, EOS, 20, 0), "takes 19"),
        (lambda d: d(tokens(2, 20), latents(2)), "takes 19"),
        (lambda d: d(tokens(3, 4), latents(2)), "one for each"),
        (lambda d: OptimusDecoder(CFG, attention="flash"), "sdpa, eager"),
        (lambda d: OptimusEncoder(CFG, attention="flash"), "sdpa, eager"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call(OptimusDecoder(CFG))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a a red red car", "a red car"),
        (
            "the cat the cat sat on the mat, on the mat.",
            "the cat sat on the mat, on the mat.",
        ),
        ("hello", "hello"),
        ("", ""),
        ("a dog (running) (running) fast", "a dog (running) fast"),
        ("blue blue blue sky", "blue sky"),
        ("one two three one two three four", "one two three four"),
    ],
)
def test_repeated_words(text, expected):
    """Input and output pairs of the released code."""
    assert remove_repeated_ngrams(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<BOS> a red car <EOS>", "a red car"),
        ("<BOS> a red car", "a red"),  # stopped by the limit: the last word goes
        ("<BOS> <EOS>", ""),
        ("<BOS>", ""),
        ("", ""),
    ],
)
def test_first_and_last_word_go(text, expected):
    assert drop_first_and_last_word(text) == expected


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_latents_that_overflow_are_no_text(decoder, temperature):
    with pytest.raises(FloatingPointError, match=r"left the range of torch\.float32: use float32"):
        decoder.generate(latents(2) * 3e38, BOS, EOS, 8, temperature, SampleNoise([1, 2]))
