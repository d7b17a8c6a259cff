#!/usr/bin/env python3
"""Makes tiny chat models for vLLM whose answers are known, out of nothing but numpy and tokenizers.

usage: make_models.py DIRECTORY NAME…

Each model says its own name when greeted, so an answer tells which model gave it. Its weights are a
table: attention and feed-forward give zero, a token of an answer has a coordinate of its own, and the
output matrix maps that coordinate to the token that comes next. So what follows depends on the last
token alone, at any temperature; the chat template ends a prompt with the token that begins the right
answer. It must never need training, a GPU, a download, or a random number.
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
# How far the next token's logit lies above all the others'.
MARGIN = 40.0

END = "<|end|>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
# An answer: the token that begins it, and what the model then says, token by token, as text or bytes.
# The end token follows, or for an endless answer its last token again. A token may stand in one place
# only. NAME is the model's.
ANSWERS = {
    "<|hello|>": ["Hello", "! I", " am", " NAME", ", a", " tiny", " test", " model", "."],
    "<|unicode|>": ["Grüße", " 世界", " ", b"\xf0\x9f", b"\x98\x80", "!!"],
    "<|sing|>": ["la", " la"],
}
ENDLESS = {"<|sing|>"}

TEMPLATE = (
    "{%- for message in messages -%}"
    "<|{{ message.role if message.role in ['system', 'assistant'] else 'user' }}|>"
    "{{ message.content }}" + END + "{%- endfor -%}"
    "{%- if 'sing' in messages[-1].content -%}<|sing|>"
    "{%- elif 'unicode' in messages[-1].content -%}<|unicode|>"
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
    control = [END, *ROLES, *ANSWERS]
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


def write_tokenizer(directory, tokens, control):
    """Byte-level BPE without a single merge: prompts are read byte by byte."""
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    write_json(
        os.path.join(directory, "tokenizer_config.json"),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": END,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT,
            "chat_template": TEMPLATE,
        },
    )


def write_model(directory, tokens, end, embedding, output):
    """Weights and description, as transformers has them for a Llama."""
    square, ones = numpy.zeros((WIDTH, WIDTH), numpy.float32), numpy.ones(WIDTH, numpy.float32)
    layer = "model.layers.0."
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": output, "model.norm.weight": ones}
    for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"):
        tensors[f"{layer}{part}_proj.weight"] = square
    for part in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{layer}{part}.weight"] = ones
    save_file(tensors, os.path.join(directory, "model.safetensors"), {"format": "pt"})
    write_json(
        os.path.join(directory, "config.json"),
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float32",
            "vocab_size": len(tokens),
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": WIDTH // HEADS,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": False,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
        },
    )


def make(directory, name):
    os.makedirs(directory, exist_ok=True)
    tokens, control, chains = vocabulary(name)
    follows, end = successors(tokens, chains)
    write_tokenizer(directory, tokens, control)
    write_model(directory, tokens, end, *matrices(tokens, follows, end))


def main():
    directory, *names = sys.argv[1:]
    for name in names:
        make(os.path.join(directory, name), name)


if __name__ == "__main__":
    main()
