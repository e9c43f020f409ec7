"""What a hosted llama-server is not told, and that of each of its options it was decided."""

import re
import subprocess
from pathlib import Path

import pytest

from proxy.engine.llama_args import (
    REFUSED,
    config_files,
    refused_args,
    refused_config,
    refused_variables,
)
from tests.support.llama import program

# Looked at, and taken: sampling, templates, drafts, threads, formats of the cache, how a model is
# divided over devices (moves keep to those that it is computed on), and what nobody reaches through
# the proxy.
FINE = """
    -t --threads -tb --threads-batch -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll
    -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch -n
    --predict --n-predict -b --batch-size -ub --ubatch-size --keep --swa-full -fa --flash-attn
    --perf --no-perf -e --escape --no-escape --rope-scaling --rope-scale --rope-freq-base
    --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow
    --yarn-beta-fast -kvo --kv-offload -nkvo --no-kv-offload -nr --no-repack --no-host -ctk
    --cache-type-k -ctv --cache-type-v -dt --defrag-thold -lzm --lazy-mode --numa -dev --device
    -ngl --gpu-layers --n-gpu-layers -sm --split-mode -ts --tensor-split -mg --main-gpu
    --check-tensors --override-kv --op-offload --no-op-offload --lora --lora-scaled
    --control-vector --control-vector-scaled --control-vector-layer-range -hft --hf-token
    --log-file --log-jsonl --no-log-jsonl --log-colors -v --verbose --log-verbose --offline
    --log-prefix --no-log-prefix --log-timestamps --no-log-timestamps --spec-draft-type-k -ctkd
    --cache-type-k-draft --spec-draft-type-v -ctvd --cache-type-v-draft --samplers -s --seed
    --sampler-seq --sampling-seq --ignore-eos --temp --temperature --top-k --top-p --min-p
    --top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --typical --typical-p
    --repeat-last-n --repeat-penalty --presence-penalty --frequency-penalty --dry-multiplier
    --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker
    --adaptive-target --adaptive-decay --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr
    --mirostat-ent -l --logit-bias --grammar --grammar-file -j --json-schema -jf
    --json-schema-file -bs --backend-sampling --spec-draft-hf -hfd -hfrd --hf-repo-draft
    --spec-draft-threads -td --threads-draft --spec-draft-threads-batch -tbd
    --threads-batch-draft --spec-draft-cpu-mask -Cd --cpu-mask-draft --spec-draft-cpu-range -Crd
    --cpu-range-draft --spec-draft-cpu-strict --cpu-strict-draft --spec-draft-prio --prio-draft
    --spec-draft-poll --poll-draft --spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft
    --spec-draft-cpu-strict-batch --cpu-strict-batch-draft --spec-draft-prio-batch
    --prio-batch-draft --spec-draft-poll-batch --poll-batch-draft --spec-draft-override-tensor
    -otd --override-tensor-draft --spec-draft-cpu-moe -cmoed --cpu-moe-draft
    --spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft --spec-draft-n-max
    --spec-draft-n-min --spec-synth-len --spec-synth-rates --spec-draft-p-split --draft-p-split
    --spec-draft-p-min --draft-p-min --spec-draft-backend-sampling
    --no-spec-draft-backend-sampling --spec-draft-device -devd --device-draft --spec-draft-ngl
    -ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-model -md --model-draft
    --spec-type --spec-ngram-mod-n-min --spec-ngram-mod-n-max --spec-ngram-mod-n-match
    --spec-ngram-simple-size-n --spec-ngram-simple-size-m --spec-ngram-simple-min-hits
    --spec-ngram-map-k-size-n --spec-ngram-map-k-size-m --spec-ngram-map-k-min-hits
    --spec-ngram-map-k4v-size-n --spec-ngram-map-k4v-size-m --spec-ngram-map-k4v-min-hits
    --draft --draft-n --draft-max --draft-min --draft-n-min --spec-ngram-size-n
    --spec-ngram-size-m --spec-ngram-min-hits -lcs --lookup-cache-static -lcd
    --lookup-cache-dynamic -ctxcp --ctx-checkpoints --swa-checkpoints -cms --checkpoint-min-step
    -cram --cache-ram -kvu --kv-unified -no-kvu --no-kv-unified --cache-idle-slots
    --no-cache-idle-slots --context-shift --no-context-shift -r --reverse-prompt -sp --special
    --warmup --spm-infill --pooling -cb --cont-batching -nocb --no-cont-batching -mm --mmproj
    --mmproj-auto --no-mmproj --no-mmproj-auto --mmproj-offload --no-mmproj-offload -mmdev
    --mmproj-device --image-min-tokens --image-max-tokens --mtmd-batch-max-tokens --video-fps
    --video-timestamp-interval --video-ffmpeg-dir --tags --embd-normalize --cors-origins
    --cors-methods --cors-headers --cors-credentials --no-cors-credentials --ui-config
    --webui-config --ui-config-file --webui-config-file --ui-mcp-proxy --webui-mcp-proxy
    --no-ui-mcp-proxy --no-webui-mcp-proxy --tools --tools-runtime --mcp-servers-config
    --mcp-servers-json -ag --agent -no-ag --no-agent --ui --webui --no-ui --no-webui
    --chat-template-kwargs -to --timeout --sse-ping-interval --threads-http --cache-prompt
    --no-cache-prompt --cache-reuse --metrics --props --slots --slot-save-path --media-path
    --jinja --no-jinja --reasoning-format -rea --reasoning --reasoning-effort --reasoning-budget
    --reasoning-budget-message --reasoning-preserve --no-reasoning-preserve --chat-template
    --chat-template-file --skip-chat-parsing --no-skip-chat-parsing --prefill-assistant
    --no-prefill-assistant -sps --slot-prompt-similarity --lora-init-without-apply
    --log-prompts-dir --spec-default
"""
# As other builds call them; in this one they are not known, or have no variable.
OTHER_BUILDS = {"--no-mmap", "--mlock", "-dio", "--direct-io", "LLAMA_ARG_SLEEP_IDLE_SECONDS"}
OTHER_BUILDS |= {"LLAMA_ARG_WARMUP", "LLAMA_ARG_NO_WARMUP"}


def why(*args: str) -> list[str]:
    return [f"{index} {message}" for index, message in refused_args(args)]


# --- the table, against the llama-server that is installed ---


@pytest.fixture(scope="module")
def help_text() -> str:
    said = subprocess.run([program("llama-server"), "--help"], capture_output=True, check=True)
    return said.stdout.decode()


def spellings(text: str) -> set[str]:
    """Every name of every option: those with which its entry begins."""
    heads = [line for line in text.splitlines() if re.match(r"--?[a-zA-Z]", line)]
    found = [re.match(r"(?:--?[A-Za-z][\w.-]*(?:,? +|$))+", head) for head in heads]
    return {name for match in found if match for name in re.findall(r"-[^\s,]+", match[0])}


@pytest.mark.llama
def test_of_every_option_it_was_decided(help_text: str) -> None:
    """An update of llama.cpp that has new ones fails here."""
    refused = {name for row in REFUSED for name in row.names}
    fine = set(FINE.split())

    assert spellings(help_text) - refused - fine == set()
    assert fine - spellings(help_text) == set()
    assert refused - spellings(help_text) - OTHER_BUILDS == set()
    assert fine & refused == set()


@pytest.mark.llama
def test_variables_are_the_ones_that_it_reads(help_text: str) -> None:
    known = set(re.findall(r"\(env: (\w+)\)", help_text))
    known |= {name.replace("LLAMA_ARG_", "LLAMA_ARG_NO_") for name in known}
    ours = {name for row in REFUSED for name in (*row.variables, *row.switches)}

    assert ours - known - OTHER_BUILDS == set()


# --- args ---


@pytest.mark.parametrize(
    ("written", "option"),
    [
        ("-c", "-c"),
        ("--ctx-size", "--ctx-size"),
        ("--ctx_size", "--ctx-size"),
        ("--ctx-size=4096", "--ctx-size"),
    ],
)
def test_each_spelling_is_refused_with_what_to_use_instead(written: str, option: str) -> None:
    assert why("--jinja", written, "4096") == [
        f"1 {option} is not for hosted models: a request's backend is chosen by it; use ctx"
    ]


def test_each_of_several_is_told() -> None:
    assert why("--no-slots", "--sleep-idle-seconds", "60") == [
        "0 --no-slots is not for hosted models: the proxy reads there how far answers are; use "
        'engine = "command" where it is needed',
        "1 --sleep-idle-seconds is not for hosted models: it frees the model under experts that "
        "move; use keep_alive",
    ]


def test_what_changes_nothing_may_stand() -> None:
    assert why("--fit", "off", "--load-mode", "mmap+mlock", "--sleep-idle-seconds", "-1") == []
    assert why("--log-verbosity", "4", "--warmup", "--slots", "--no-repack") == []
    assert why("--device", "CUDA0", "-ts", "3,1", "--pooling", "mean", "") == []
    assert len(why("--fit", "on", "--load-mode", "none", "-lv", "1")) == 3


# --- the environment ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLAMA_API_KEY", "secret"),
        ("LLAMA_ARG_HF_REPO", "a/b"),
        ("LLAMA_ARG_EMBEDDINGS", "1"),
        ("LLAMA_ARG_NO_ENDPOINT_SLOTS", ""),
        ("LLAMA_ARG_ENDPOINT_SLOTS", "off"),
        ("LLAMA_ARG_SLEEP_IDLE_SECONDS", "60"),
        ("LLAMA_ARG_LOG_VERBOSITY", "1"),
    ],
)
def test_variables_that_count(name: str, value: str) -> None:
    [(variable, message)] = refused_variables({name: value, "HOME": "/home/me"})

    assert variable == name
    assert f"env -u {name} moe-proxy serve" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Our own command line overrules these,
        ("LLAMA_ARG_HOST", "0.0.0.0"),
        ("LLAMA_ARG_MODEL", "other.gguf"),
        ("LLAMA_ARG_CTX_SIZE", "4096"),
        # and these say nothing else than it does.
        ("LLAMA_API_KEY", ""),
        ("LLAMA_ARG_EMBEDDINGS", "0"),
        ("LLAMA_ARG_ENDPOINT_SLOTS", "1"),
        ("LLAMA_ARG_THREADS", "4"),
    ],
)
def test_variables_that_do_not(name: str, value: str) -> None:
    assert list(refused_variables({name: value})) == []


# --- config files ---


def test_keys_of_a_config_file() -> None:
    text = """
; for every llama-server
sleep-idle-seconds = 60 ; a minute
ctx-size = 4096
threads = 4
no-slots = off
[some-model]
api-key = not-for-us
[*]
slots = 0
api-prefix=/llama
LLAMA_ARG_ALIAS = x
log-disable = 1
"""
    assert [key for key, _ in refused_config(text)] == [
        *("sleep-idle-seconds", "slots", "api-prefix", "LLAMA_ARG_ALIAS", "log-disable"),
    ]


def test_where_config_files_are() -> None:
    system = Path("/etc/llama.cpp/config.ini")
    assert config_files({}) == (system,)
    assert config_files({"HOME": "/h"}) == (system, Path("/h/.config/llama.cpp/config.ini"))
    assert config_files({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == (
        system,
        Path("/c/llama.cpp/config.ini"),
    )
