"""Pictures, in each protocol, through a real vision encoder."""

import base64
import io
from typing import Any

import anthropic
import ollama
import openai
import pytest
from PIL import Image

from tests.api.clients.conftest import SEER, TINY

pytestmark = pytest.mark.llama
QUESTION = "what is it?"
COLOURS = ("red", "blue")


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def in_openais(colour: str) -> Any:
    url = f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]


def in_anthropics(colour: str) -> Any:
    data = base64.b64encode(png(colour)).decode()
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }
    return [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]


def in_ollamas(colour: str) -> Any:
    return [{"role": "user", "content": QUESTION, "images": [png(colour)]}]


def test_openai(mine: openai.OpenAI) -> None:
    answers = [
        mine.chat.completions.create(model=SEER, messages=in_openais(colour), max_tokens=6)
        for colour in COLOURS
    ]
    blind = mine.chat.completions.create(
        model=SEER, messages=[{"role": "user", "content": QUESTION}], max_tokens=1
    )

    assert answers[0].choices[0].message.content != answers[1].choices[0].message.content
    assert answers[0].usage is not None
    assert blind.usage is not None
    assert answers[0].usage.prompt_tokens >= blind.usage.prompt_tokens + 16, "4 x 4 patches"


def test_responses(mine: openai.OpenAI) -> None:
    (message,) = in_openais("red")
    image, text = message["content"]
    content: Any = [
        {"type": "input_image", "image_url": image["image_url"]["url"], "detail": "auto"},
        {"type": "input_text", "text": text["text"]},
    ]
    answer = mine.responses.create(
        model=SEER, input=[{"role": "user", "content": content}], max_output_tokens=6
    )
    chat = mine.chat.completions.create(model=SEER, messages=in_openais("red"), max_tokens=6)

    assert answer.output_text == chat.choices[0].message.content


def test_anthropic(theirs: anthropic.Anthropic) -> None:
    texts = [
        theirs.messages.create(model=SEER, messages=in_anthropics(colour), max_tokens=6).content[0]
        for colour in COLOURS
    ]

    assert texts[0].type == texts[1].type == "text"
    assert texts[0].text != texts[1].text


def test_ollama(llama: ollama.Client) -> None:
    options = {"num_predict": 6}
    chats = [llama.chat(SEER, in_ollamas(colour), options=options) for colour in COLOURS]
    prompts = [
        llama.generate(SEER, QUESTION, images=[png(colour)], options=options) for colour in COLOURS
    ]

    assert chats[0].message.content != chats[1].message.content
    assert prompts[0].response != prompts[1].response
    assert "vision" in (llama.show(SEER).capabilities or ())


def test_a_model_without_eyes(
    mine: openai.OpenAI, theirs: anthropic.Anthropic, llama: ollama.Client
) -> None:
    says = "does not take images"
    with pytest.raises(openai.BadRequestError, match=says):
        mine.chat.completions.create(model=TINY, messages=in_openais("red"))
    with pytest.raises(anthropic.BadRequestError, match=says):
        theirs.messages.create(model=TINY, messages=in_anthropics("red"), max_tokens=6)
    with pytest.raises(ollama.ResponseError, match=says) as error:
        llama.chat(TINY, in_ollamas("red"))
    assert error.value.status_code == 400
