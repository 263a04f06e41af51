"""A configured base model -> its tokenizer and its frozen weights, ready for the engine.

`load` reads (and, through the sources, fetches) weights; everything else is pure. A base model is
loaded once per process and shared by all jobs: adapters are lent to it and taken back.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from persona_lab.cache import NotAtHand
from persona_lab.component import component, hash_file, neutral
from persona_lab.data import Scale
from persona_lab.errors import UserError
from persona_lab.model.decode import head
from persona_lab.model.engine import ATTENTION, Tree, group, run
from persona_lab.model.phi3 import split_projections
from persona_lab.model.quantise import Quantisation, quantise
from persona_lab.prompting import Codec
from persona_lab.sources import Hub, Source, Sources

_ARCHITECTURES = {"llama": LlamaConfig, "phi3": Phi3Config, "gemma3": Gemma3TextConfig}
# Our names of sizes -> transformers'; and those that most architectures derive from others.
_SIZES = {
    **{name: name for name in ("vocab_size", "hidden_size", "intermediate_size")},
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}
_OPTIONAL = ("head_dim", "tie_word_embeddings", "initializer_range")


@component
class BaseModel:
    """A language model that plays the SLM or the LLM.

    Attributes:
        name: Name in results and reports.
        source: Where weights and tokenizer come from; None for random weights.
        path: A local folder in transformers' layout, taken instead of the source.
        gguf: File inside the source that holds the weights; None: a folder in transformers' layout.
        chat: `template` or `plain` (see `Codec`).
        context: Tokens that a prompt and its answer may take.
        lora_targets: Names of the projections that adapters adapt (decision 17).
        sliding_window: `native` keeps the model's window, `off` lets it see its whole context
            (decision 18).
        random: Architecture (`llama`, `phi3` or `gemma3`), sizes and, where given,
            `initializer_range` of a model with random weights.
        sizes: The same of a model that is fetched: for `task=plan` before its weights are there.
    """

    name: str
    source: Source | None = neutral()
    path: str | None = neutral()
    gguf: str | None
    chat: Literal["template", "plain"]
    context: PositiveInt
    lora_targets: list[str]
    sliding_window: Literal["off", "native"]
    random: Mapping[str, Any] | None
    sizes: Mapping[str, Any] | None = neutral()

    def fingerprint(self, sources: Sources) -> Any:
        """What identifies the weights in keys: the source's pins, or the hash of a local folder."""
        if self.random is not None:
            return dict(self.random)
        if self.path is None:
            return {"source": vars(self.source)}
        digests = {}
        for file in sorted(self._folder(sources).iterdir()):
            if file.suffix in {".json", ".safetensors", ".model", ".jinja"}:
                state = file.stat()
                digests[file.name] = _digest(file, state.st_size, state.st_mtime_ns)
        return digests

    def codec(self, sources: Sources, new_tokens: int, scale: Scale) -> Codec:
        """How the model reads prompts and answers; loads the tokenizer only, once per process.

        `new_tokens` are those that decoding may add to a prompt.
        """
        where = self._folder(sources) if self.random is None else int(self.random["vocab_size"])
        return _codec(where, self.chat, self.context, new_tokens, scale)

    def load(
        self,
        sources: Sources,
        dtype: torch.dtype,
        device: str,
        quantisation: Quantisation | None = None,
    ) -> PreTrainedModel:
        """Frozen weights in evaluation mode; the same object for every job of a process.

        `dtype` is that of the weights or, where they are in 4 bits, of what is computed with them.

        Raises:
            UserError: No weights are where `path` points, or what 4 bits need is not installed.
        """
        where = self._folder(sources) if self.random is None else json.dumps(dict(self.random))
        return _load(where, self.sliding_window, dtype, device, quantisation)

    def outline(self, sources: Sources) -> PreTrainedModel:
        """The model without its weights, on torch's meta device: to count by.

        Raises:
            UserError: Neither its config is at hand nor are its sizes declared.
        """
        try:
            if self.random is not None:
                config: Any = _tiny_config(self.random)
            else:
                config = AutoConfig.from_pretrained(self._folder(sources))
        except NotAtHand as missing:
            if self.sizes is None:
                raise UserError(
                    f"the sizes of {self.name} are not known: {missing.what}",
                    "declare model.sizes as conf/model/phi3.yaml does",
                ) from missing
            config = _tiny_config(self.sizes)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
        split_projections(model)
        return model.requires_grad_(False)

    def published(self, sources: Sources) -> str | None:
        """Hub id or folder by which others load the same weights; None for random ones."""
        if self.random is not None:
            return None
        if self.path is None and isinstance(self.source, Hub):
            return self.source.repo_id
        return str(self._folder(sources))

    def _folder(self, sources: Sources) -> Path:
        if self.path is not None:
            folder = Path(self.path).expanduser()
            if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
                raise UserError(
                    f"model.path {folder} has no config.json with *.safetensors beside it",
                    "point it to a folder saved by transformers' save_pretrained",
                )
            return folder
        source = self.source
        assert source is not None, "a base model needs source, path or random"
        if self.gguf is None:
            return sources.fetch(source)
        spec = json.loads(json.dumps({"source": vars(source), "gguf": self.gguf}, default=vars))
        return sources.derive(
            self.name, spec, lambda target: _dequantise(sources.fetch(source), self.gguf, target)
        )


@lru_cache
def _digest(file: Path, size: int, changed: int) -> str:
    # Whole, though it takes seconds: a merged adapter leaves both ends of the weights as they were.
    return hash_file(file)


def _dequantise(source: Path, gguf: str | None, target: Path) -> None:
    """Write a GGUF file's weights and tokenizer as a folder that loads in under a second."""
    loading: Any = AutoModelForCausalLM.from_pretrained
    model = loading(source, gguf_file=gguf, dtype=torch.float32)
    # transformers marks the model as quantised and refuses to save what no longer is.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(target)


@lru_cache(maxsize=2)
def _codec(where: Path | int, chat: Any, context: int, new_tokens: int, scale: Scale) -> Codec:
    """`where`: the tokenizer's folder, or the size of the vocabulary of one for random weights."""
    made = isinstance(where, int)
    tokenizer = _tiny_tokenizer(where) if made else AutoTokenizer.from_pretrained(where)
    return Codec(tokenizer, chat, context, new_tokens, scale)


@lru_cache(maxsize=1)
def _load(
    where: Path | str, window: str, dtype: torch.dtype, device: str, bits: Quantisation | None
) -> PreTrainedModel:
    """`where`: the weights' folder, or the sizes of random ones in JSON."""
    made = isinstance(where, str)
    config = _tiny_config(json.loads(where)) if made else AutoConfig.from_pretrained(where)
    if window == "off" and getattr(config, "sliding_window", None) is not None:
        config.sliding_window = None
    options: Any = {"dtype": dtype, "attn_implementation": ATTENTION}
    model: Any
    if made:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(where, config=config, **options)
    split_projections(model)
    if bits is not None:
        quantise(model, bits, device)
    model = model.to(device).requires_grad_(False).eval()
    _compare(model)
    return model


def _compare(model: PreTrainedModel) -> None:
    """Refuse a model whose own forward pass gives other logits than the engine and its head.

    Some scale or cap them (Granite, Cohere, Gemma-2), which all that is read of them would miss.
    """
    rows = [[3, 4, 5, 6], [3, 4, 9]]
    tree = Tree([group(rows, [0, 1])], model.device)
    with torch.no_grad():
        ours = head(model, run(model, tree)[tree.ends])
        model.set_attn_implementation("eager")
        alone = [torch.tensor([rows[i]], device=model.device) for i in tree.order]
        outputs = [model(ids, output_hidden_states=True) for ids in alone]
        model.set_attn_implementation(ATTENTION)
        theirs = torch.stack([output.logits[0, -1] for output in outputs])
        if torch.finfo(model.dtype).bits < 32:
            # Two orders of rounding may be far apart in half precision: only the head is compared.
            hidden = [output.hidden_states[-1][0, -1] for output in outputs]
            ours = head(model, torch.stack(hidden))
    # A scale is a factor of several.
    if (ours - theirs).abs().max() > 0.1 * torch.maximum(ours.abs().max(), theirs.abs().max()):
        raise UserError(
            f"the architecture {model.config.model_type} is not supported: it scales or caps the "
            "logits that its output head gives",
            "choose a model that does neither",
        )


def _tiny_config(sizes: Mapping[str, Any]) -> Any:
    kind = _ARCHITECTURES.get(sizes.get("architecture", ""))
    if kind is None:
        raise UserError(
            f"model.random.architecture {sizes.get('architecture')!r} does not exist",
            f"choose {' or '.join(_ARCHITECTURES)}",
        )
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    named = {theirs: sizes[ours] for ours, theirs in _SIZES.items()}
    return kind(**special, **named, **{n: sizes[n] for n in _OPTIONAL if n in sizes})


_TINY_TEXT = """\
PERSONA: I rate movies from 1 to 5. The movie was released in the year of genre, Action, \
Adventure, Animation, Children's, Comedy, Crime, Documentary, Drama, Fantasy, Film-Noir, \
Horror, Musical, Mystery, Romance, Sci-Fi, Thriller, War, Western. TASK: MOVIE: RATING:"""
_TINY_CHAT = """\
{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"""


def _tiny_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that is made in a moment: for models with random weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TINY_TEXT], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|start|>", eos_token="<|end|>"
    )
    fast.chat_template = _TINY_CHAT
    return fast
