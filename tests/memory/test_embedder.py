from dataclasses import replace

import numpy as np
import pytest
from configured import configured
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.data import Cost
from persona_lab.errors import UserError
from persona_lab.memory.vectors import split_texts
from persona_lab.sources import Sources


def letters(texts):
    """Numbers of tokens where every letter is one."""
    return [sum(not char.isspace() for char in text) for text in texts]


@given(st.lists(st.text("ab.! \n", max_size=60), max_size=4), st.integers(1, 20))
def test_parts_fit_and_lose_nothing(texts, room):
    parts = split_texts(texts, letters, room)
    assert all(size <= room for _, size, _ in parts)
    assert [size for _, size, _ in parts] == letters([part for part, _, _ in parts])
    assert [owner for _, _, owner in parts] == sorted(owner for _, _, owner in parts)
    for index, text in enumerate(texts):
        joined = "".join(part for part, _, owner in parts if owner == index)
        assert "".join(joined.split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "room", "parts"),
    [
        ("One. Two. Six.", 99, ["One. Two. Six."]),
        ("One. Two. Six. Ten.", 9, ["One. Two.", "Six. Ten."]),
        ("Yes! A longer sentence", 18, ["Yes!", "A longer sentence"]),
        ("no stop in here", 8, ["no stop", "in here"]),
        ("unbreakable", 6, ["unbre", "akable"]),
        ("first line\nsecond line", 11, ["first line", "second line"]),
    ],
)
def test_sentences_before_words_before_letters(text, room, parts):
    assert [part for part, _, _ in split_texts([text], letters, room)] == parts


def tiny_model(folder, window=16):
    """A sentence-transformers folder: one random BERT layer over the letters a to z."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *"abcdefghijklmnopqrstuvwxyz"]
    bert = folder / "bert"
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=window,
    )
    BertModel(config).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=window)
    SentenceTransformer(modules=[transformer, Pooling(8)]).save(str(folder / "model"))
    return folder / "model"


def embedder(path):
    return configured("embedder=minilm", source=None, path=str(path))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return embedder(tiny_model(tmp_path_factory.mktemp("tiny")))


def is_unit(vectors):
    return np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n_sentences", [1, 4, 5, 30])
def test_every_sentence_of_a_long_text_counts(tiny, sources, n_sentences):
    """Five sentences are more than the window of 14 tokens, thirty are many times it."""
    text = " ".join(["a b c."] * (n_sentences - 1))
    vectors, _ = tiny.load(sources)([f"{text} x y z.", f"{text} z y x."])
    assert is_unit(vectors)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4


def test_parts_are_averaged_by_their_tokens(tiny, sources):
    encode = tiny.load(sources)
    first, second = "a b c d e f g h.", "x y z x y z."
    (one, other), cost = encode([first, second])
    assert cost == Cost()
    expected = 9 * one + 7 * other
    (together,), _ = encode([f"{first} {second}"])
    np.testing.assert_allclose(together, expected / np.linalg.norm(expected), atol=1e-6)


def test_the_window_is_filled_before_a_text_is_split(tiny, sources):
    from sentence_transformers import SentenceTransformer

    fits = " ".join("abcdefghijklmn")
    plain = SentenceTransformer(tiny.path).encode([fits], normalize_embeddings=True)
    np.testing.assert_allclose(tiny.load(sources)([fits])[0], plain, atol=1e-6)


def test_no_text_gives_no_vectors(tiny, sources):
    assert tiny.load(sources)([])[0].shape == (0, 8)
    assert configured("embedder=hashed", dim=5).load(sources)([])[0].shape == (0, 5)


def test_a_fingerprint_is_of_content_or_of_pins(tiny, sources, tmp_path):
    other = embedder(tiny_model(tmp_path, window=12))
    assert tiny.fingerprint(sources) == tiny.fingerprint(sources) != other.fingerprint(sources)
    pinned = configured("embedder=minilm")
    assert pinned.fingerprint(Sources(tmp_path)) == {"source": vars(pinned.source)}


def test_a_missing_model_is_said(sources, tmp_path):
    with pytest.raises(UserError, match=r"embedder\.path /nowhere is not a folder with"):
        embedder("/nowhere").fingerprint(sources)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(UserError, match="no sentence-transformers model in"):
        embedder(tmp_path).load(sources)
    with pytest.raises(UserError, match=r"embedder\.path None is not a folder"):
        replace(embedder(tmp_path), path=None).load(sources)


def test_hashed_words_are_compared_by_count(sources):
    encode = configured("embedder=hashed", dim=4096).load(sources)
    (same, shuffled, other), _ = encode(["war and love", "love and war", "quiet comedy"])
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, shuffled)
    assert same @ other == pytest.approx(0)
    assert is_unit(encode(["war and love"])[0])


def test_minilm_finds_alike_what_is_alike(real_sources):
    encode = configured("embedder=minilm").load(real_sources)
    (heist, robbers, musical), _ = encode(
        [
            "A gang plans a bank robbery.",
            "Thieves prepare to steal money from a vault.",
            "A cheerful animated musical for children.",
        ]
    )
    assert heist.shape == (384,)
    assert heist @ robbers > 2 * (heist @ musical)
    long = "I like films about war, honour and friendship. " * 60
    (one, other), _ = encode([long + "I hate musicals.", long + "I adore musicals."])
    assert 0.9 < one @ other < 1 - 1e-6
