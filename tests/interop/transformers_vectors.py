"""Writes into FOLDER, of each family, NAME.published.safetensors and what transformers makes of that file.

Names, shapes and types of the former are those of checkpoints on the hub, written down here by hand; values are random. transformers'
`from_pretrained` has to find every tensor that it expects, and to expect every one that it finds.
"""

import pathlib
import sys
import tempfile

import safetensors
import torch
import transformers
from safetensors.torch import save_file
from transformers.core_model_loading import PermuteForRope
from transformers.pytorch_utils import Conv1D

folder = pathlib.Path(sys.argv[1])
made_by = f"transformers {transformers.__version__}, torch {torch.__version__}, safetensors {safetensors.__version__}"
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# No two that could be mistaken for each other are equal.
hidden, heads, key_heads, head, ffn, expert_ffn, vocab, layers = 8, 2, 1, 6, 10, 5, 16, 2
sizes = {
    "hidden_size": hidden,
    "num_attention_heads": heads,
    "num_key_value_heads": key_heads,
    "head_dim": head,
    "intermediate_size": ffn,
    "vocab_size": vocab,
    "num_hidden_layers": layers,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def save(name, tensors):
    folder.mkdir(exist_ok=True)
    # One key: several are written in any order.
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors", {"made_by": made_by})


def random_tensors(shapes, seed, dtypes):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).to(next(t for end, t in dtypes.items() if name.endswith(end)))
        for name, shape in sorted(shapes.items())
    }


def loaded(model_class, config, tensors):
    with tempfile.TemporaryDirectory() as checkpoint:
        config.save_pretrained(checkpoint)
        save_file(tensors, f"{checkpoint}/model.safetensors", {"format": "pt"})
        model, told = model_class.from_pretrained(checkpoint, dtype="auto", output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def feed_forward(prefix, width, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = (f"{prefix}.{name}.weight" for name in names)
    return {gate: (width, hidden), up: (width, hidden), down: (hidden, width)}


def attention(prefix):
    return {
        f"{prefix}.q_proj.weight": (heads * head, hidden),
        f"{prefix}.k_proj.weight": (key_heads * head, hidden),
        f"{prefix}.v_proj.weight": (key_heads * head, hidden),
        f"{prefix}.o_proj.weight": (hidden, heads * head),
    }


def decoder(layer):
    """The tensors that all but GPT-2 have, and `layer(number, prefix)` of each layer."""
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    for i in range(layers):
        prefix = f"model.layers.{i}"
        shapes[f"{prefix}.input_layernorm.weight"] = shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        shapes |= layer(i, prefix)
    return shapes


def qwen3_moe():
    experts = 11  # sorted as text, 10 is before 2

    def layer(_, prefix):
        shapes = attention(f"{prefix}.self_attn") | {f"{prefix}.mlp.gate.weight": (experts, hidden)}
        shapes |= {f"{prefix}.self_attn.q_norm.weight": (head,), f"{prefix}.self_attn.k_norm.weight": (head,)}
        for e in range(experts):
            shapes |= feed_forward(f"{prefix}.mlp.experts.{e}", expert_ffn)
        return shapes

    config = transformers.Qwen3MoeConfig(
        **sizes, num_experts=experts, num_experts_per_tok=2, moe_intermediate_size=expert_ffn, mlp_only_layers=[], decoder_sparse_step=1
    )
    tensors = random_tensors(decoder(layer), 1, {"": torch.bfloat16})
    save("qwen3_moe.published", tensors)
    save("qwen3_moe.loaded", loaded(transformers.Qwen3MoeForCausalLM, config, tensors).state_dict())


def mixtral():
    experts = 4

    def layer(_, prefix):
        shapes = attention(f"{prefix}.self_attn") | {f"{prefix}.block_sparse_moe.gate.weight": (experts, hidden)}
        for e in range(experts):
            shapes |= feed_forward(f"{prefix}.block_sparse_moe.experts.{e}", ffn, ("w1", "w3", "w2"))
        return shapes

    config = transformers.MixtralConfig(**sizes, num_local_experts=experts, num_experts_per_tok=2)
    tensors = random_tensors(decoder(layer), 2, {"": torch.bfloat16})
    save("mixtral.published", tensors)
    save("mixtral.loaded", loaded(transformers.MixtralForCausalLM, config, tensors).state_dict())


def deepseek(version):
    """V3, and V2 as its Lite is: queries of one projection, and no bias of the router."""
    experts, q_rank, kv_rank, rope, nope, value = 4, 7, 3, 2, 4, 5

    def layer(i, prefix):
        attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        shapes = {
            f"{attn}.kv_a_proj_with_mqa.weight": (kv_rank + rope, hidden),
            f"{attn}.kv_a_layernorm.weight": (kv_rank,),
            f"{attn}.kv_b_proj.weight": (heads * (nope + value), kv_rank),
            f"{attn}.o_proj.weight": (hidden, heads * value),
        }
        if version == 2:
            shapes[f"{attn}.q_proj.weight"] = (heads * (nope + rope), hidden)
        else:
            shapes[f"{attn}.q_a_proj.weight"] = (q_rank, hidden)
            shapes[f"{attn}.q_a_layernorm.weight"] = (q_rank,)
            shapes[f"{attn}.q_b_proj.weight"] = (heads * (nope + rope), q_rank)
        if i == 0:
            return shapes | feed_forward(mlp, ffn)
        shapes[f"{mlp}.gate.weight"] = (experts, hidden)
        if version == 3:
            shapes[f"{mlp}.gate.e_score_correction_bias"] = (experts,)
        for e in range(experts):
            shapes |= feed_forward(f"{mlp}.experts.{e}", expert_ffn)
        return shapes | feed_forward(f"{mlp}.shared_experts", expert_ffn)

    common = {key: given for key, given in sizes.items() if key != "head_dim"} | {
        "num_key_value_heads": heads,
        "moe_intermediate_size": expert_ffn,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": None if version == 2 else q_rank,
        "kv_lora_rank": kv_rank,
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": nope,
        "v_head_dim": value,
    }
    if version == 2:
        model, config = transformers.DeepseekV2ForCausalLM, transformers.DeepseekV2Config(**common)
    else:
        config = transformers.DeepseekV3Config(**common, n_group=2, topk_group=1, num_mtp_layers=0)
        model = transformers.DeepseekV3ForCausalLM
    tensors = random_tensors(decoder(layer), 3, {"e_score_correction_bias": torch.float32, "": torch.bfloat16})
    save(f"deepseek_v{version}.published", tensors)
    save(f"deepseek_v{version}.loaded", loaded(model, config, tensors).state_dict())


def same_output(one, other):
    tokens = torch.arange(vocab).reshape(2, -1)
    first, second = (model.float()(tokens)[0] for model in (one, other))
    assert first.std() > 0.01 and torch.allclose(first, second, atol=1e-5), (first - second).abs().max()


def llama():
    """Is loaded as it is. Fused, it is Phi-3, which computes the same."""
    tensors = random_tensors(
        decoder(lambda _, prefix: attention(f"{prefix}.self_attn") | feed_forward(f"{prefix}.mlp", ffn)), 4, {"": torch.bfloat16}
    )
    model = loaded(transformers.LlamaForCausalLM, transformers.LlamaConfig(**sizes), tensors)
    held = model.state_dict()
    assert held.keys() == tensors.keys() and all(held[name].equal(tensors[name]) for name in held)
    save("llama.published", tensors)

    fused = {}
    for name, tensor in tensors.items():
        for parts, whole in ((("q_proj", "k_proj", "v_proj"), "qkv_proj"), (("gate_proj", "up_proj"), "gate_up_proj")):
            if f".{parts[0]}." in name:
                fused[name.replace(parts[0], whole)] = torch.cat([tensors[name.replace(parts[0], part)] for part in parts])
        if not any(f".{part}_proj." in name for part in ("q", "k", "v", "gate", "up")):
            fused[name] = tensor
    phi = loaded(transformers.Phi3ForCausalLM, transformers.Phi3Config(**sizes, pad_token_id=0), fused)
    save("llama.fused", phi.state_dict())
    same_output(model, phi)

    split = dict(tensors)
    for which, count in (("q_proj", heads), ("k_proj", key_heads)):
        own = {name: tensor for name, tensor in tensors.items() if f".{which}." in name}
        for name, tensor in own.items():
            config = transformers.LlamaConfig(num_attention_heads=count)
            (split[name],) = PermuteForRope().convert({name: [tensor]}, [name], [name], config).values()
    save("llama.half_split", split)


def gpt2():
    """Is loaded as it is, except for the causal masks. With linear layers in place of Conv1D it computes the same."""
    positions = 6
    shapes = {"wte.weight": (vocab, hidden), "wpe.weight": (positions, hidden), "ln_f.weight": (hidden,), "ln_f.bias": (hidden,)}
    for i in range(layers):
        for norm in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{norm}.weight"] = shapes[f"h.{i}.{norm}.bias"] = (hidden,)
        for name, extents in {
            "attn.c_attn": (hidden, 3 * hidden),
            "attn.c_proj": (hidden, hidden),
            "mlp.c_fc": (hidden, 4 * hidden),
            "mlp.c_proj": (4 * hidden, hidden),
        }.items():
            shapes[f"h.{i}.{name}.weight"], shapes[f"h.{i}.{name}.bias"] = extents, extents[1:]
    tensors = random_tensors(shapes, 5, {"": torch.float32})
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, positions, positions).tril() for i in range(layers)}
    config = transformers.GPT2Config(
        vocab_size=vocab, n_embd=hidden, n_head=heads, n_layer=layers, n_positions=positions, dtype="float32"
    )
    model, linear = (loaded(transformers.GPT2Model, config, tensors | masks) for _ in range(2))
    held = model.state_dict()
    assert held.keys() == tensors.keys() and all(held[name].equal(tensors[name]) for name in held)
    for name, conv in list(linear.named_modules()):
        if isinstance(conv, Conv1D):
            layer = torch.nn.Linear(*conv.weight.shape)
            layer.load_state_dict({"weight": conv.weight.T, "bias": conv.bias})
            linear.set_submodule(name, layer)
    save("gpt2.published", tensors | masks)
    save("gpt2.linear", linear.state_dict())
    tokens = torch.arange(2 * positions).reshape(2, -1)
    assert torch.allclose(model(tokens)[0], linear(tokens)[0], atol=1e-5)


with torch.no_grad():
    qwen3_moe()
    mixtral()
    deepseek(2)
    deepseek(3)
    llama()
    gpt2()
