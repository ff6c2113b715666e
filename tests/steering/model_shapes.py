"""The shapes of tiny models of many families, by the model type that config.json names."""

from typing import Any

BASE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What all of them are given; None in a family's own settings takes it away."""

_MLA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}

_MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

_GDN: dict[str, Any] = {
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": (
        "AfmoeConfig",
        _MOE | {"sliding_window": 8, "head_dim": 8, "num_dense_layers": 1, "num_shared_experts": 1},
    ),
    "apertus": ("ApertusConfig", {}),
    "arcee": ("ArceeConfig", {}),
    "bamba": (
        "BambaConfig",
        {
            "attn_layer_indices": [1],
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
        },
    ),
    "bitnet": ("BitNetConfig", {}),
    "bloom": ("BloomConfig", {"n_layer": 3, "n_head": 4}),
    "codegen": (
        "CodeGenConfig",
        {
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "rotary_dim": 4,
            "n_positions": 512,
            "n_ctx": 512,
            "n_inner": 64,
        },
    ),
    "cohere": ("CohereConfig", {}),
    "cohere2": ("Cohere2Config", {"sliding_window": 8, "head_dim": 8}),
    "deepseek_v2": (
        "DeepseekV2Config",
        _MLA
        | {
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
        },
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        _MLA
        | {
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "deepseek_v4": ("DeepseekV4Config", {}),
    "ernie4_5": ("Ernie4_5Config", {}),
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_layer_start_index": 1},
    ),
    "exaone4": ("Exaone4Config", {"sliding_window": 8, "sliding_window_pattern": 3}),
    "falcon": ("FalconConfig", {}),
    "falcon_h1": (
        "FalconH1Config",
        {
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
            "mamba_d_ssm": 64,
            "head_dim": 8,
        },
    ),
    "falcon_mamba": ("FalconMambaConfig", {"state_size": 4}),
    "flex_olmo": ("FlexOlmoConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 2.0},
    ),
    "gemma3_text": (
        "Gemma3TextConfig",
        {
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma4_text": ("Gemma4TextConfig", {"head_dim": 8, "sliding_window": 8}),
    "glm": ("GlmConfig", {"head_dim": 8}),
    "glm4": ("Glm4Config", {"head_dim": 8}),
    "glm4_moe": (
        "Glm4MoeConfig",
        {
            "head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
        },
    ),
    "glm4_moe_lite": (
        "Glm4MoeLiteConfig",
        _MLA
        | {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
        },
    ),
    "glm_moe_dsa": (
        "GlmMoeDsaConfig",
        _MLA
        | {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
            "index_topk": 64,
            "index_head_dim": 16,
            "index_n_heads": 2,
        },
    ),
    "gpt2": ("GPT2Config", {"num_key_value_heads": None, "n_inner": 64}),
    "gpt_bigcode": ("GPTBigCodeConfig", {"n_inner": 64}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "num_layers": 3,
            "num_heads": 4,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 8,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", {"num_key_value_heads": None}),
    "gpt_oss": (
        "GptOssConfig",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "gptj": (
        "GPTJConfig",
        {
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "rotary_dim": 4,
            "n_positions": 512,
            "n_inner": 64,
        },
    ),
    "granite": ("GraniteConfig", {}),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
            "layer_types": ["mamba", "attention", "mamba"],
            "position_embedding_type": "rope",
        },
    ),
    "granitemoehybrid (no positions)": (
        "GraniteMoeHybridConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
            "layer_types": ["mamba", "attention", "mamba"],
        },
    ),
    "hrm_text": ("HrmTextConfig", {}),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", {"head_dim": 8}),
    "jais2": ("Jais2Config", {}),
    "jamba": (
        "JambaConfig",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
        },
    ),
    "jetmoe": (
        "JetMoeConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "kv_channels": 8,
            "num_key_value_heads": 2,
        },
    ),
    "laguna": ("LagunaConfig", _MOE | {"head_dim": 8}),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention", "conv"]}),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        _MOE | {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    ),
    "llama": ("LlamaConfig", {}),
    "llama4_text": (
        "Llama4TextConfig",
        {
            "head_dim": 8,
            "intermediate_size_mlp": 64,
            "num_local_experts": 4,
            "attention_chunk_size": 8,
            "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        },
    ),
    "mamba": ("MambaConfig", {"state_size": 4}),
    "mamba2": (
        "Mamba2Config",
        {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    ),
    "minimax_m2": (
        "MiniMaxM2Config",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "ministral3": ("Ministral3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "sliding_window": 8}),
    "modernbert-decoder": (
        "ModernBertDecoderConfig",
        {
            "local_attention": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "mpt": (
        "MptConfig",
        {"d_model": 32, "n_heads": 4, "n_layers": 3, "expansion_ratio": 2, "max_seq_len": 512},
    ),
    "nanochat": ("NanoChatConfig", {}),
    "nemotron": ("NemotronConfig", {}),
    "nemotron_h": (
        "NemotronHConfig",
        {
            "layers_block_type": ["mamba", "attention", "mlp"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
            "head_dim": 8,
        },
    ),
    "olmo": ("OlmoConfig", {}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"sliding_window": 8}),
    "olmo_hybrid": ("OlmoHybridConfig", _GDN),
    "olmoe": ("OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "openai-gpt": (
        "OpenAIGPTConfig",
        {"num_key_value_heads": None, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512},
    ),
    "opt": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}),
    "phi": ("PhiConfig", {}),
    "phi3": ("Phi3Config", {"sliding_window": 8}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        _MOE | {"shared_expert_intermediate_size": 32, "decoder_sparse_step": 2},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "qwen3_5_moe_text": (
        "Qwen3_5MoeTextConfig",
        _MOE | _GDN | {"shared_expert_intermediate_size": 32},
    ),
    "qwen3_5_text": ("Qwen3_5TextConfig", _GDN),
    "qwen3_moe": ("Qwen3MoeConfig", _MOE | {"head_dim": 8}),
    "qwen3_next": ("Qwen3NextConfig", _MOE | _GDN | {"shared_expert_intermediate_size": 32}),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {
            "lru_width": 32,
            "attention_window_size": 8,
            "block_types": ["recurrent", "attention", "recurrent"],
        },
    ),
    "rwkv": ("RwkvConfig", {"attention_hidden_size": 32, "context_length": 512}),
    "seed_oss": ("SeedOssConfig", {"head_dim": 8}),
    "smollm3": ("SmolLM3Config", {}),
    "stablelm": ("StableLmConfig", {}),
    "starcoder2": ("Starcoder2Config", {"sliding_window": 8}),
    "vaultgemma": ("VaultGemmaConfig", {"head_dim": 8, "sliding_window": 8}),
    "xglm": (
        "XGLMConfig",
        {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 64, "init_std": 0.3},
    ),
    "youtu": ("YoutuConfig", _MLA),
    "zamba2": (
        "Zamba2Config",
        {
            "mamba_d_state": 8,
            "mamba_headdim": 16,
            "n_mamba_heads": 4,
            "mamba_ngroups": 1,
            "chunk_size": 8,
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "num_mem_blocks": 1,
            "adapter_rank": 4,
        },
    ),
}
"""Configuration class and settings of each."""
