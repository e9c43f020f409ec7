"""A small vocabulary built here: every byte, some English words, and ChatML's marks.

It tokenises any UTF-8 text (a word it does not know becomes bytes), and a model that gives weight
only to `Vocabulary.printable` writes words that a terminal shows without harm.
"""

from collections.abc import Iterator
from dataclasses import dataclass

# Token types of GGUF's `tokenizer.ggml.token_type`.
NORMAL = 1
CONTROL = 3

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END)

# Roles are words too, so that a template's marks stay short.
WORDS = """
a able about above across act add after again against age air all allow almost alone along also
always am among an and animal answer any appear apple are area arm around as ask at away baby back
bad ball bank base be bear beat beautiful because become bed been before began begin behind being
believe below beside best better between big bird black blue board boat body book born both box boy
bread break bridge bright bring brother brown build burn busy but buy by cake call calm came can car
care carry case cat catch cause center chair chance change check child choose circle city class
clean clear clock close cloud coast cold color come common complete cook cool copper copy corn
corner could count country course cover cross cry cup cut dance dark day deep did differ dinner do
doctor dog done door down draw dream dress drink drive drop dry each early earth east eat edge egg
eight either else end engine enough equal even evening ever every example eye face fact fall family
far farm fast father feel feet fell few field fight fill final find fine finger fire first fish five
flat floor flow flower fly follow food foot for forest form forward found four free fresh friend
from front fruit full game garden gate gave get girl give glass go gold gone good grass gray great
green grew ground group grow guess had hair half hand happen happy hard has hat have he head hear
heart heat heavy held help her here high hill him his hold home hope horse hot hour house how
hundred hunt ice idea if in inside iron is island it jump just keep kept key kind king knew know
lake land language large last late laugh lead leaf learn least leave left leg less let letter life
light like line lion list listen little live long look lost lot loud love low machine made main make
man many map mark market matter may me mean measure meet men metal middle might mile milk mind
minute miss money month moon more morning most mother mountain mouth move much music must my name
near need never new next night nine no noise north nose not note nothing notice now number object
ocean of off often oil old on once one only open or orange order other our out over own page paint
paper part party pass past path pattern people perhaps person picture piece place plain plan plane
plant play please point poor port power present press pretty problem pull push put queen question
quick quiet quite rain ran reach read ready real red rest rich ride right ring rise river road rock
room root rope rose round row rule run safe said sail salt same sand saw say school sea season seat
second see seed seem sell send sense serve set seven shade shape share sharp she ship shoe shop
short should show side sign silver simple since sing sister sit six size skin sky sleep slow small
smile snow so soft soil some son song soon sound south space speak spell spend spring square stand
star start state stay steel step stick still stone stop store storm story strange stream street
strong such sugar summer sun sure surface swim table tail take talk tall tea teach team tell ten
test than that the their them then there these they thick thing think third this those though
thought thousand three through time tiny to today together told too took top touch toward town trade
train travel tree trip true try turn twenty two under until up upon us use valley very village visit
voice wait walk wall want war warm was wash watch water wave way we wear weather week well went were
west wet what wheel when where which while white who whole why wide wild will wind window winter
wire wish with without woman wonder wood word work world would write year yellow yes yet you young
your zero
""".split()
ROLES = ("system", "user", "assistant", "tool")
# Written after a word, without a space; no letters, so no rank of another word gets in their way.
MARKS = (",", ".")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as GGUF metadata, without the chat template.

    `printable` are the ids of tokens that are whole words or marks: harmless to show.
    """

    metadata: dict[str, object]
    size: int
    printable: tuple[int, ...]


def build_vocabulary() -> Vocabulary:
    """Byte-level BPE of the GPT-2 kind: 256 bytes, each word and its beginnings, ChatML's marks.

    A merge lengthens a beginning by one byte, so there is one way to put each known word together.
    """
    alphabet = list(byte_alphabet())
    tokens = list(alphabet)
    ids = {token: index for index, token in enumerate(tokens)}
    merges: list[str] = []
    whole: list[int] = [ids[mark] for mark in MARKS]
    space = alphabet[ord(" ")]
    for word in [*(space + word for word in WORDS), *ROLES]:
        for end in range(2, len(word) + 1):
            if word[:end] not in ids:
                ids[word[:end]] = len(tokens)
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
        if word not in ROLES:
            whole.append(ids[word])
    types = [NORMAL] * len(tokens) + [CONTROL] * len(SPECIAL)
    tokens.extend(SPECIAL)
    prefix = "tokenizer.ggml."
    return Vocabulary(
        metadata={
            prefix + "model": "gpt2",
            prefix + "pre": "gpt-2",
            prefix + "tokens": tokens,
            prefix + "token_type": types,
            prefix + "merges": merges,
            prefix + "bos_token_id": tokens.index(END_OF_TEXT),
            prefix + "eos_token_id": tokens.index(TURN_END),
            prefix + "padding_token_id": tokens.index(END_OF_TEXT),
            prefix + "add_bos_token": False,
        },
        size=len(tokens),
        printable=tuple(sorted(whole)),
    )


def byte_alphabet() -> Iterator[str]:
    """The character that stands for each byte 0 to 255 in a byte-level vocabulary.

    Visible bytes stand for themselves; the others, in order, for the characters from 256 up.
    """
    spare = 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            yield chr(byte)
        else:
            yield chr(spare)
            spare += 1
