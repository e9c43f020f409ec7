from proxy.catalog.gguf_reader import read_header
from tests.support.models import model


def test_what_models_are() -> None:
    experts = read_header(model("gpt-oss", layers=2))
    dense = read_header(model("qwen3", layers=2))
    encoder = read_header(model("bert-rerank", layers=2))

    assert (experts.is_moe, experts.expert_count, experts.context_length) == (True, 16, 8192)
    assert (dense.is_moe, dense.expert_count, dense.layers) == (False, 0, 2)
    assert experts.has_chat_template
    assert experts.pooling is None
    assert not encoder.has_chat_template
    assert encoder.pooling == "rank"
