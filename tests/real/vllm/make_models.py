#!/usr/bin/env python3
"""Makes tiny chat models for vLLM whose answers are known, out of nothing but numpy and tokenizers.

usage: make_models.py DIRECTORY NAME…

Each model says its own name when greeted, so an answer tells which model gave it. Its weights are a
table: attention and feed-forward give zero, a token of an answer has a coordinate of its own, and the
output matrix maps that coordinate to the token that comes next. So what follows depends on the last
token alone, at any temperature; the chat template ends a prompt with the token that begins the right
answer. A name with -bare at its end is a model without a chat template, one with -vl a Qwen2-VL that
takes images and has no template either. It must never need training, a GPU, a download, or a random
number.
"""
import json
import os
import sys

import numpy
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTEXT = 4096
WIDTH = 64
HEADS = 2
# Qwen2-VL's patches: edge, pictures that make one, and how many by how many become one token.
PATCH, TIMES, MERGED = 14, 2, 2
# How far the next token's logit lies above all the others'.
MARGIN = 40.0

END = "<|end|>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
# Signs that parsers look for in the text, so they are no control tokens: those would not be shown.
SIGNS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
# What chatml.jinja, and Qwen2-VL's own preparation of images, want to find.
CHATML = ["<|im_start|>", "<|im_end|>"]
PICTURES = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
# An answer: the token that begins it, and what the model then says, token by token, as text or bytes.
# The end token follows, or for an endless answer its last token again. A token may stand in one place
# only. NAME is the model's.
ANSWERS = {
    "<|hello|>": ["Hello", "! I", " am", " NAME", ", a", " tiny", " test", " model", "."],
    "<|unicode|>": ["Grüße", " 世界", " ", b"\xf0\x9f", b"\x98\x80", "!!"],
    "<|sing|>": ["la", " la"],
    "<|think|>": ["<think>", "\nTwo", " and", " two", " make", " four", ".\n", "</think>",
                  "\n\nThe", " answer", " is", " 4."],
    "<|weather|>": ["<tool_call>", '\n{"', "name", '": "get', "_weather", '", "arguments": {"', "city",
                    '": "Pa', 'ris"', "}}\n", "</tool_call>"],
}
ENDLESS = {"<|sing|>"}
# A prompt that ends with this, as those of other chat templates do, gets the answer to hello.
ALSO_HELLO = "\n"

TEMPLATE = (
    "{%- for message in messages -%}"
    "<|{{ message.role if message.role in ['system', 'assistant'] else 'user' }}|>"
    "{{ message.content }}" + END + "{%- endfor -%}"
    "{%- if 'sing' in messages[-1].content -%}<|sing|>"
    "{%- elif 'unicode' in messages[-1].content -%}<|unicode|>"
    "{%- elif 'think' in messages[-1].content -%}<|think|>"
    "{%- elif 'weather' in messages[-1].content -%}<|weather|>"
    "{%- else -%}<|hello|>{%- endif -%}"
)


def byte_letters():
    """GPT-2's printable letter for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]


def vocabulary(name):
    """All tokens, in order: control tokens, the bytes that prompts are read in, whole words."""
    letters = byte_letters()

    def spelled(text):
        data = text if isinstance(text, bytes) else text.replace("NAME", name).encode()
        return "".join(letters[byte] for byte in data)

    chains = {start: [spelled(word) for word in words] for start, words in ANSWERS.items()}
    control = [END, *ROLES, *ANSWERS, *CHATML, *PICTURES]
    words = [word for chain in chains.values() for word in chain if word not in letters]
    tokens = [*control, *letters, *words]
    assert len(set(tokens)) == len(tokens), "a token stands in two places"
    return tokens, control, chains


def successors(tokens, chains):
    """Which token follows which; whatever is not listed is followed by the end."""
    number = {token: place for place, token in enumerate(tokens)}
    follows = {}
    for start, chain in chains.items():
        path = [start, *chain, chain[-1] if start in ENDLESS else END]
        for token, successor in zip(path, path[1:]):
            assert follows.setdefault(number[token], number[successor]) == number[successor]
    newline = byte_letters()[ord(ALSO_HELLO)]
    assert follows.setdefault(number[newline], number[chains["<|hello|>"][0]]) == number[chains["<|hello|>"][0]]
    return follows, number[END]


def matrices(tokens, follows, end):
    """Embedding and output: coordinate 0 is everybody else's, whose successor is the end."""
    assert len(follows) < WIDTH
    embedding = numpy.zeros((len(tokens), WIDTH), numpy.float32)
    output = numpy.zeros((len(tokens), WIDTH), numpy.float32)
    embedding[:, 0] = 1.0
    # The norm makes a vector with a single 1 in it sqrt(WIDTH) long.
    gain = MARGIN / WIDTH**0.5
    output[end, 0] = gain
    for coordinate, (token, successor) in enumerate(sorted(follows.items()), start=1):
        embedding[token] = 0.0
        embedding[token, coordinate] = 1.0
        output[successor, coordinate] = gain
    return embedding, output


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)


def write_tokenizer(directory, tokens, control, template):
    """Byte-level BPE without a single merge: prompts are read byte by byte."""
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in SIGNS])
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    if template:
        settings["chat_template"] = template
    write_json(os.path.join(directory, "tokenizer_config.json"), settings)


def text_tensors(embedding, output, bias):
    """One layer that adds nothing; Qwen2 has a bias where Llama has none."""
    square, ones = numpy.zeros((WIDTH, WIDTH), numpy.float32), numpy.ones(WIDTH, numpy.float32)
    layer = "model.layers.0."
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": output, "model.norm.weight": ones}
    for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"):
        tensors[f"{layer}{part}_proj.weight"] = square
    for part in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{layer}{part}.weight"] = ones
    if bias:
        for part in "qkv":
            tensors[f"{layer}self_attn.{part}_proj.bias"] = numpy.zeros(WIDTH, numpy.float32)
    return tensors


def text_settings(tokens, end):
    return {
        "dtype": "float32",
        "vocab_size": len(tokens),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def vision_tensors():
    """A tower that sees nothing: whatever the picture, as many vectors of zeros as it has places."""
    shapes = {
        "patch_embed.proj.weight": (WIDTH, 3, TIMES, PATCH, PATCH),
        "blocks.0.norm1": (WIDTH,),
        "blocks.0.norm2": (WIDTH,),
        "blocks.0.attn.qkv": (3 * WIDTH, WIDTH),
        "blocks.0.attn.proj": (WIDTH, WIDTH),
        "blocks.0.mlp.fc1": (2 * WIDTH, WIDTH),
        "blocks.0.mlp.fc2": (WIDTH, 2 * WIDTH),
        "merger.ln_q": (WIDTH,),
        "merger.mlp.0": (WIDTH * MERGED**2, WIDTH * MERGED**2),
        "merger.mlp.2": (WIDTH, WIDTH * MERGED**2),
    }
    tensors = {}
    for name, shape in shapes.items():
        zeros = numpy.zeros(shape, numpy.float32)
        if name.endswith(".weight"):
            tensors[f"visual.{name}"] = zeros
        else:
            tensors[f"visual.{name}.weight"] = zeros + 1 if len(shape) == 1 else zeros
            tensors[f"visual.{name}.bias"] = numpy.zeros(shape[0], numpy.float32)
    return tensors


def vision_settings(tokens):
    number = {token: place for place, token in enumerate(tokens)}
    half = WIDTH // HEADS // 2
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "rope_scaling": {"type": "mrope", "mrope_section": [half // 4, 3 * half // 8, 3 * half // 8]},
        "vision_start_token_id": number["<|vision_start|>"],
        "vision_end_token_id": number["<|vision_end|>"],
        "image_token_id": number["<|image_pad|>"],
        "video_token_id": number["<|video_pad|>"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 1,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "mlp_ratio": 2,
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGED,
            "temporal_patch_size": TIMES,
        },
    }


def write_image_processor(directory):
    """A picture costs a token for each 28 by 28 pixels, so the count of tokens tells its size."""
    settings = {
        "min_pixels": 56 * 56,
        "max_pixels": 1008 * 1008,
        "size": {"shortest_edge": 56 * 56, "longest_edge": 1008 * 1008},
        "patch_size": PATCH,
        "temporal_patch_size": TIMES,
        "merge_size": MERGED,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "Qwen2VLProcessor",
    }
    for name, kind in (("preprocessor", "image"), ("video_preprocessor", "video")):
        write_json(
            os.path.join(directory, f"{name}_config.json"),
            {**settings, f"{kind}_processor_type": f"Qwen2VL{kind.capitalize()}Processor"},
        )


def make(directory, name):
    os.makedirs(directory, exist_ok=True)
    tokens, control, chains = vocabulary(name)
    follows, end = successors(tokens, chains)
    sees = name.endswith("-vl")
    write_tokenizer(directory, tokens, control, None if name.endswith(("-bare", "-vl")) else TEMPLATE)
    tensors = text_tensors(*matrices(tokens, follows, end), bias=sees)
    settings = text_settings(tokens, end)
    if sees:
        tensors |= vision_tensors()
        settings |= vision_settings(tokens)
        write_image_processor(directory)
    else:
        settings |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": WIDTH // HEADS}
    save_file(tensors, os.path.join(directory, "model.safetensors"), {"format": "pt"})
    write_json(os.path.join(directory, "config.json"), settings)


def main():
    directory, *names = sys.argv[1:]
    for name in names:
        make(os.path.join(directory, name), name)


if __name__ == "__main__":
    main()
