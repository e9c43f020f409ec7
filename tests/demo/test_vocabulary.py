from proxy.demo.vocabulary import ROLES, WORDS, build_vocabulary, byte_alphabet


def test_every_byte_has_its_own_character() -> None:
    alphabet = list(byte_alphabet())

    assert len(set(alphabet)) == 256
    assert alphabet[ord("a")] == "a"
    assert alphabet[ord(" ")] == "\u0120"
    assert not any(character.isspace() for character in alphabet)


def test_merges_make_every_word_and_nothing_unknown() -> None:
    vocabulary = build_vocabulary()
    tokens = vocabulary.metadata["tokenizer.ggml.tokens"]
    merges = vocabulary.metadata["tokenizer.ggml.merges"]
    assert isinstance(tokens, list)
    assert isinstance(merges, list)

    made = {"".join(merge.split(" ")) for merge in merges}

    assert len(tokens) == len(set(tokens)) == vocabulary.size
    assert {"\u0120" + word for word in WORDS} | set(ROLES) <= made <= set(tokens)
    assert all(part in tokens for merge in merges for part in merge.split(" "))


def test_printable_tokens_are_words_and_marks() -> None:
    vocabulary = build_vocabulary()
    tokens = vocabulary.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)

    shown = "".join(tokens[index] for index in vocabulary.printable).replace("\u0120", " ")

    assert shown.isascii()
    assert shown.isprintable()
    assert len(vocabulary.printable) == len(WORDS) + 2
