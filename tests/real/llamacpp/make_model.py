#!/usr/bin/env python3
"""Makes a tiny chat model for llama.cpp whose answers are known, out of nothing but numpy and gguf.

usage: make_model.py MODEL.gguf CHAT_TEMPLATE.jinja

Its weights are a table: attention and feed-forward give zero, a token of an answer has a coordinate
of its own, and the output matrix maps that coordinate to the token that comes next. So what follows
depends on the last token alone, at any temperature; the chat template ends a prompt with the token
that begins the right answer. It must never need training, a GPU, a download, or a random number.
"""
import sys

import gguf
import numpy

CONTEXT = 512
WIDTH = 64
HEADS = 2
# How far the next token's logit lies above all the others'.
MARGIN = 40.0

END = "<|end|>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
# An answer: the token that begins it, and what the model then says, token by token, as bytes. The
# end token follows, or for an endless answer its last token again. A token may stand in one place only.
ANSWERS = {
    "<|hello|>": ["Hello", "! I", " am", " tiny-a", ", a", " tiny", " test", " model", "."],
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


def vocabulary():
    """All tokens, in order: control tokens, the bytes that prompts are read in, whole words."""
    letters = byte_letters()

    def spelled(text):
        return "".join(letters[byte] for byte in (text.encode() if isinstance(text, str) else text))

    chains = {start: [spelled(word) for word in words] for start, words in ANSWERS.items()}
    control = [END, *ROLES, *ANSWERS]
    words = [word for chain in chains.values() for word in chain if word not in letters]
    tokens = [*control, *letters, *words]
    assert len(set(tokens)) == len(tokens), "a token stands in two places"
    return tokens, len(control), chains


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


def write(path, tokens, controls, embedding, output):
    """The file, as llama.cpp wants it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-gguf")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * controls
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(tokens) - controls))
    # Prompts stay single bytes; a list without any merge is refused, so here is one that never applies.
    writer.add_token_merges([f"{tokens[-1]} {tokens[-1]}"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    square, ones = numpy.zeros((WIDTH, WIDTH), numpy.float32), numpy.ones(WIDTH, numpy.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{part}.weight", square)
    for part in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{part}.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    model, template = sys.argv[1:]
    tokens, controls, chains = vocabulary()
    embedding, output = matrices(tokens, *successors(tokens, chains))
    write(model, tokens, controls, embedding, output)
    with open(template, "w", encoding="utf-8") as file:
        file.write(TEMPLATE)


if __name__ == "__main__":
    main()
