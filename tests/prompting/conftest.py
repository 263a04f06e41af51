"""Small tokenizers that behave like those of the models this package names."""

import json
from pathlib import Path

import pytest
import yaml
from configured import configured
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers import normalizers as norm
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from persona_lab.prompting import Template

CONF = Path(__file__).parents[2] / "conf" / "prompt"

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content ="
    " '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] |"
    " trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' +"
    " message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' +"
    " message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# The first release of Phi-3: a system message vanishes without a word.
PHI3_NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' +"
    " '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}"
    "{% endif %}{% endfor %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# A template that refuses system messages.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)


def _corpus() -> list[str]:
    texts = yaml.safe_load((CONF / "appendix_c.yaml").read_text())
    return [str(text).translate(str.maketrans("", "", "0123456789")) for text in texts.values()]


def _byte_level(split: str | None, specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
    if split is not None:
        parts.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [*_corpus(), "\n\n"],
        BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _sentencepiece(*, prepend: bool) -> Tokenizer:
    """As LLaMA-2, Phi-3 (a space before every text read alone) and Gemma (none) have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps: list[norm.Normalizer] = [norm.Replace(" ", "▁")]
    tokenizer.normalizer = norm.Sequence([norm.Prepend("▁"), *steps] if prepend else steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(
        [line for text in _corpus() for line in text.split("\n")],
        BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False),
    )
    parts = json.loads(tokenizer.to_str())
    vocab, parts["pre_tokenizer"] = parts["model"]["vocab"], None
    # LLaMA-2 and Phi-3 write a line break as a byte, Gemma as a token of its own.
    breaks = () if prepend else ("\n",)
    for token in (*breaks, *"0123456789▁<>|_/", *(f"<0x{byte:02X}>" for byte in range(256))):
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    strip = [decoders.Strip(" ", 1, 0)] if prepend else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _phi3(template: str) -> PreTrainedTokenizerFast:
    tokenizer = _sentencepiece(prepend=True)
    tokenizer.add_special_tokens(["<s>", "<|endoftext|>"])
    # Not marked as special, and they take the white space that follows them.
    names = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    tokenizer.add_tokens([AddedToken(name, rstrip=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        unk_token="<unk>",
        chat_template=template,
    )


def _llama3() -> PreTrainedTokenizerFast:
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(LLAMA3_SPLIT, [*specials, "<|end_header_id|>", "<|eot_id|>"]),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        chat_template=LLAMA3,
    )


def _smollm2() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(None, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=SMOLLM2,
    )


def _gemma(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = _sentencepiece(prepend=False)
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n", "\n\n", "<h1>")])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=template,
    )


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {
        "llama3": _llama3(),
        "phi3": _phi3(PHI3),
        "phi3_no_system": _phi3(PHI3_NO_SYSTEM),
        "smollm2": _smollm2(),
        "gemma_it": _gemma(GEMMA),
        "gemma": _gemma(None),
    }


@pytest.fixture(scope="session")
def template() -> Template:
    return configured("prompt=appendix_c")
