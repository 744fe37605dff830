"""Tiny checkpoints with random weights, one of each family of models, with tokenizers and chat templates that behave as
the family's own do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEAD = "{%- for m in messages %}"
TAIL = "{%- endfor %}{%- if add_generation_prompt %}"
ALTERNATE = (
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}"
)

# The header names the role; a system message of its own where none is given.
CHATML = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{%- endif %}" + HEAD + ""
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}" + TAIL + "{{- '<|im_start|>assistant\n' }}"
    "{%- endif %}"
)
# Thinks unless told not to, which leaves an empty thought in the header; earlier turns lose theirs.
QWEN3 = (
    "{%- set at = namespace(asked=-1) %}" + HEAD + "{%- if m.role == 'user' %}{%- set at.asked = loop.index0 %}"
    "{%- endif %}{%- endfor %}" + HEAD + "{%- if m.role == 'assistant' %}"
    "{%- set content = m.content.split('</think>')[-1].lstrip('\n') %}{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > at.asked %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- content + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}" + TAIL + ""
    "{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and not enable_thinking %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
ALWAYS_THINKING = CHATML.replace("assistant\n'", "assistant\n<think>\n'")
# Tells today's date; an empty thought in every turn when it is not to think.
SMOLLM3 = (
    "{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}{%- endif %}"
    "{%- set thought = '' if enable_thinking else '<think>\n\n</think>\n' %}"
    "{%- set start = 1 if messages[0].role == 'system' else 0 %}"
    "{{- '<|im_start|>system\nToday: ' + strftime_now('%d %B %Y') + '\n' }}"
    "{%- if start %}{{- messages[0].content.rstrip() }}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- for m in messages[start:] %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' %}{{- thought + m.content.lstrip('\n') }}{%- else %}{{- m.content }}{%- endif %}"
    "{{- '<|im_end|>\n' }}" + TAIL + "{{- '<|im_start|>assistant\n' + thought }}{%- endif %}"
)
# No system role, and strict turns.
GEMMA = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}{{- raise_exception('no system role') }}{%- endif %}"
    + HEAD
    + ALTERNATE
    + "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{- '<end_of_turn>\n' }}" + TAIL + "{{- '<start_of_turn>model\n' }}{%- endif %}"
)
# The system message goes into the first user's.
GEMMA3 = GEMMA.replace(
    "{{- raise_exception('no system role') }}",
    "{%- set first = messages[0].content + '\n\n' %}{%- set messages = messages[1:] %}{%- else %}{%- set first = '' %}",
).replace("'\n' + m.content | trim", "'\n' + (first if loop.first else '') + m.content | trim")
# Neither a system role nor a header for the assistant.
OLD_MISTRAL = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}{{- raise_exception('no system role') }}{%- endif %}"
    + HEAD
    + ALTERNATE
    + "{%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}{%- else %}"
    "{{- m.content + eos_token + ' ' }}{%- endif %}{%- endfor %}"
)
# The system message goes into the last user's, so that every turn moves it; a space before each answer.
MISTRAL = (
    "{{- bos_token }}{%- set told = '' %}{%- if messages[0].role == 'system' %}"
    "{%- set told = messages[0].content + '\n\n' %}{%- set messages = messages[1:] %}{%- endif %}"
    + HEAD
    + ""
    + ALTERNATE
    + "{%- if m.role == 'user' %}{{- '[INST] ' + (told if loop.last else '') + m.content + '[/INST]' }}"
    "{%- else %}{{- ' ' + m.content | trim + eos_token }}{%- endif %}{%- endfor %}"
)
PHI = (
    HEAD + "{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}" + TAIL + "{{- '<|assistant|>\n' }}"
    "{%- else %}{{- eos_token }}{%- endif %}"
)
LLAMA2 = (
    HEAD
    + "{%- if m.role == 'user' %}{{- bos_token + '[INST] ' + m.content + ' [/INST]' }}{%- elif m.role == 'system' %}"
    "{{- raise_exception('no system role') }}{%- else %}{{- ' ' + m.content + ' ' + eos_token }}{%- endif %}"
    "{%- endfor %}"
)


@dataclass(frozen=True)
class Dress:
    """A tokenizer's special tokens, the plain ones among them, which of them have roles, and its template. spaces: it
    puts a space in front of what it reads, as sentencepiece does."""

    template: str
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()
    spaces: bool = False
    ends: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)


QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_pad|>")
QWEN_NAMED = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
QWEN_ENDS = ("<|im_end|>", "<|endoftext|>")
GEMMA_MARKS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
GEMMA_NAMED = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
MISTRAL_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MISTRAL_MARKS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
PHI_MARKS = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>", "<|system|>")

DRESSES = {
    "qwen2": Dress(CHATML, QWEN_MARKS, ends=QWEN_ENDS, named=QWEN_NAMED),
    "qwen3": Dress(QWEN3, QWEN_MARKS, ("<think>", "</think>"), ends=QWEN_ENDS, named=QWEN_NAMED),
    "smollm3": Dress(
        SMOLLM3,
        (
            "<|begin_of_text|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|reserved_special_token_0|>",
            "<|finetune_right_pad_id|>",
        ),
        ("<think>", "</think>"),
        ends=("<|im_end|>",),
        named={"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    ),
    # Its beginning-of-text is what begins every turn, and its padding is its end.
    "smollm2": Dress(
        CHATML,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"),
        ends=("<|im_end|>",),
        named={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    ),
    "gemma": Dress(GEMMA, GEMMA_MARKS, ends=("<eos>",), named=GEMMA_NAMED),
    "gemma3": Dress(GEMMA3, GEMMA_MARKS, ends=("<eos>", "<end_of_turn>"), named=GEMMA_NAMED),
    "old mistral": Dress(OLD_MISTRAL, MISTRAL_MARKS[:3], spaces=True, ends=("</s>",), named=MISTRAL_NAMED),
    "mistral": Dress(MISTRAL, (*MISTRAL_MARKS, "[control_8]"), spaces=True, ends=("</s>",), named=MISTRAL_NAMED),
    "phi3": Dress(
        PHI,
        (*PHI_MARKS, "<|user|>"),
        spaces=True,
        ends=("<|endoftext|>",),
        named={"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
    ),
    "llama2": Dress(LLAMA2, MISTRAL_MARKS[:3], spaces=True, ends=("</s>",), named=MISTRAL_NAMED),
}


def write_tokenizer(folder: Path, name: str) -> None:
    """Writes the tokenizer of that dress."""
    dress = DRESSES[name]
    model = _with_spaces() if dress.spaces else _of_bytes()
    first = len(model["model"]["vocab"])
    rest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    model["added_tokens"] = [
        {"id": first + k, "content": content, **rest, "special": content in dress.special}
        for k, content in enumerate((*dress.special, *dress.plain))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(model))
    named = {"tokenizer_class": "TokenizersBackend", "clean_up_tokenization_spaces": False, **dress.named}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "chat_template.jinja").write_text(dress.template)


def _of_bytes() -> dict[str, Any]:
    """The bundled model's tokenizer, without what it puts in front."""
    from optima_lite.model.checkpoint import bundled

    model: dict[str, Any] = json.loads((bundled() / "tokenizer.json").read_text())
    return model | {"post_processor": None}


def _with_spaces() -> dict[str, Any]:
    """A tokenizer of characters that writes spaces as sentencepiece does, and puts one in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = [chr(i) for i in range(33, 127)]
    vocabulary = [*(f"<0x{i:02X}>" for i in range(256)), "\u2581", *letters, *(f"\u2581{a}" for a in letters)]
    made = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(vocabulary)},
            merges=[("\u2581", letter) for letter in letters],
            byte_fallback=True,
        )
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    found: dict[str, Any] = json.loads(made.to_str())
    return found


SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
# By name: the architecture, its dress, and where its config differs from SIZES.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "llama2", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("Llama", "smollm2", {"tie_word_embeddings": True}),
    "qwen 2.5": ("Qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen 3": ("Qwen3", "qwen3", {"head_dim": 32}),
    "mistral": ("Mistral", "mistral", {"sliding_window": None, "head_dim": 24}),
    "mistral with a window": ("Mistral", "old mistral", {"sliding_window": 160}),
    "smollm3": ("SmolLM3", "smollm3", {"tie_word_embeddings": True, "no_rope_layer_interval": 2}),
    "gemma": ("Gemma", "gemma", {"head_dim": 32}),
    "gemma 3": ("Gemma3Text", "gemma3", {"head_dim": 32, "sliding_window": 160, "sliding_window_pattern": 2}),
    "phi 3": ("Phi3", "phi3", {}),
    "phi 4 mini": ("Phi3", "phi3", {"tie_word_embeddings": True, "partial_rotary_factor": 0.75}),
}


def write_model(folder: Path, name: str, **changes: Any) -> Path:
    """Writes a model of MODELS, its config changed; returns the folder."""
    import torch
    import transformers

    kind, dress, own = MODELS[name]
    write_tokenizer(folder, dress)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config_type = getattr(transformers, f"{kind}Config")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    config = config_type(vocab_size=len(tokenizer) + 7, **{**SIZES, **ids, **own, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
        for weight in model.parameters():  # norms and biases too, else a wrong one would not show
            weight.data += 0.05 * torch.randn_like(weight)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(DRESSES[dress].ends))
    model.save_pretrained(folder)
    return folder
