"""What was decided of each of llama-server's options: the table, and nothing else.

`REFUSED` would break a hosted model, and are never passed on. `UNSAFE` do something on this machine
that a model need not do, and are passed on where a policy says so. What is in neither is
`HARMLESS`, or of another version of llama.cpp than this table, and then taken for unsafe.
"""

from dataclasses import dataclass
from typing import Final

ON: Final = frozenset(("on", "enabled", "true", "1"))
OFF: Final = frozenset(("off", "disabled", "false", "0"))
NEVER: Final = frozenset[str]()


@dataclass(frozen=True, slots=True)
class Refused:
    """One thing that llama-server must not be told.

    `variables` say the same in a config file, `switches` say it by being off; with neither, our own
    command line overrules config files. With one of the `harmless` values it may stand.
    """

    names: tuple[str, ...]
    why: str
    instead: str = ""
    variables: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    harmless: frozenset[str] = NEVER


SOCKET: Final = "the proxy reaches a worker on a socket of its own, in its own way"
FOREIGN: Final = (
    "it would load another model than the one that was asked for, or overwrite its file"
)
CHOSEN: Final = "a request's backend is chosen by it"
PLANNED: Final = "it would change without a word what the proxy has planned"

# fmt: off
REFUSED: Final = (
    # Where it listens, and what it answers there.
    Refused(("--host", "--port", "--reuse-port"), SOCKET, "server.host and server.port"),
    Refused(("--api-key", "--api-key-file"), SOCKET, "server.api_keys_file",
            ("LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE")),
    Refused(("--ssl-key-file", "--ssl-cert-file"), SOCKET, "a reverse proxy in front",
            ("LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE")),
    Refused(("--api-prefix",), SOCKET, "", ("LLAMA_ARG_API_PREFIX",)),
    Refused(("--path",), "files could answer what the proxy asks of llama-server", "",
            ("LLAMA_ARG_STATIC_PATH",)),
    Refused(("--no-slots",), "the proxy reads there how far answers are", "",
            ("LLAMA_ARG_NO_ENDPOINT_SLOTS",), ("LLAMA_ARG_ENDPOINT_SLOTS",)),
    # Which model it is, and how it is called.
    Refused(("-m", "--model"), FOREIGN, "path"),
    Refused(("-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr", "--hf-repo", "-hff",
             "--hf-file"), FOREIGN, "path, after `moe-proxy pull`",
            ("LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO", "LLAMA_ARG_HF_REPO")),
    Refused(("--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default",
             "--fim-qwen-7b-default", "--fim-qwen-7b-spec", "--fim-qwen-14b-spec",
             "--fim-qwen-30b-default", "--gpt-oss-20b-default", "--gpt-oss-120b-default",
             "--vision-gemma-4b-default", "--vision-gemma-12b-default"), FOREIGN,
            "path, after `moe-proxy pull`"),
    Refused(("-mmu", "--mmproj-url"), "it would overwrite the file of the model's projector",
            "--mmproj with a file", ("LLAMA_ARG_MMPROJ_URL",)),
    Refused(("-a", "--alias"), "answers name the model as the proxy does", "aliases",
            ("LLAMA_ARG_ALIAS",)),
    Refused(("--models-dir", "--models-preset", "--models-max", "--models-autoload",
             "--no-models-autoload"), "a worker serves one model", "catalog.dirs"),
    # By what a backend is chosen, and what was planned for it.
    Refused(("-c", "--ctx-size"), CHOSEN, "ctx"),
    Refused(("--kv-unified-per-slot",), CHOSEN, "ctx", ("LLAMA_ARG_KV_UNIFIED_PER_SLOT",)),
    Refused(("-np", "--parallel"), CHOSEN, "parallel"),
    Refused(("--embedding", "--embeddings", "--rerank", "--reranking"), CHOSEN, "mode",
            ("LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"), harmless=OFF),
    Refused(("-fit", "--fit", "-fitt", "--fit-target", "-fitc", "--fit-ctx"), PLANNED,
            "ctx and moe_cpu_layers", harmless=OFF),
    # Where tensors are, and in which form.
    Refused(("-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe"), PLANNED, "moe_cpu_layers",
            ("LLAMA_ARG_CPU_MOE", "LLAMA_ARG_N_CPU_MOE"), harmless=OFF),
    Refused(("-ngl", "--gpu-layers", "--n-gpu-layers"), PLANNED,
            "moe_cpu_layers (without experts: dense_cpu_layers)",
            harmless=frozenset(("all", "99", "999"))),
    Refused(("--moe-cache-mib", "--moe-cache-cpu-share"), PLANNED, "moe_cache",
            ("LLAMA_ARG_MOE_CACHE_MIB", "LLAMA_ARG_MOE_CACHE_CPU_SHARE"), harmless=OFF),
    Refused(("-ncffn", "--n-cpu-ffn"), PLANNED, "dense_cpu_layers", ("LLAMA_ARG_N_CPU_FFN",),
            harmless=OFF),
    Refused(("-ot", "--override-tensor"),
            "experts that llama.cpp itself has placed cannot move", "moe_cpu_layers",
            ("LLAMA_ARG_OVERRIDE_TENSOR",)),
    Refused(("--rpc",), "devices would have other numbers than the proxy gives them", "rpc",
            ("LLAMA_ARG_RPC",)),
    Refused(("--repack",), "experts that llama.cpp itself has repacked cannot move", "repack"),
    Refused(("-lm", "--load-mode", "--no-mmap", "--mlock", "-dio", "--direct-io"),
            "experts are copied from the memory-mapped file, and go back there",
            "--load-mode mmap+mlock to keep it in RAM",
            harmless=frozenset(("mmap", "mmap+mlock"))),
    # Whether it lives, and is seen to.
    Refused(("--sleep-idle-seconds",), "it frees the model under experts that move", "keep_alive",
            ("LLAMA_ARG_SLEEP_IDLE_SECONDS",), harmless=frozenset(("-1",))),
    Refused(("--no-warmup",), "the proxy learns from the first step whether experts can move", "",
            ("LLAMA_ARG_NO_WARMUP",), ("LLAMA_ARG_WARMUP",)),
    Refused(("-h", "--help", "--usage", "--version", "-cl", "--cache-list", "--completion-bash",
             "--list-devices"), "llama-server says something and ends"),
    Refused(("--log-disable", "-lv", "--verbosity", "--log-verbosity"),
            "a load that says nothing is taken for one that hangs", "a verbosity of 3 or more",
            ("LLAMA_ARG_LOG_VERBOSITY",), harmless=frozenset(map(str, range(3, 10)))),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Unsafe:
    """What a worker can do for whoever reaches it, or to this machine, once it is told to."""

    names: tuple[str, ...]
    why: str
    variables: tuple[str, ...] = ()


PROGRAMS: Final = "it has programs run"
WRITES: Final = "it has files written"
FETCHES: Final = "it has files fetched from the network"

# fmt: off
UNSAFE: Final = (
    Unsafe(("--tools", "-ag", "--agent"), "whoever reaches the model runs programs and reads and "
           "writes files, by /upstream/.../tools", ("LLAMA_ARG_TOOLS", "LLAMA_ARG_AGENT")),
    Unsafe(("--tools-runtime", "--mcp-servers-config", "--mcp-servers-json", "--video-ffmpeg-dir"),
           PROGRAMS, ("LLAMA_ARG_TOOLS_RUNTIME", "LLAMA_ARG_MCP_SERVERS_CONFIG",
                      "LLAMA_ARG_MCP_SERVERS_JSON", "LLAMA_ARG_VIDEO_FFMPEG_DIR")),
    Unsafe(("--ui-mcp-proxy", "--webui-mcp-proxy"), "whoever reaches the model reaches what this "
           "machine does, by /upstream/.../cors-proxy", ("LLAMA_ARG_UI_MCP_PROXY",)),
    Unsafe(("--props",), "whoever reaches the model changes it for all, by POST "
           "/upstream/.../props", ("LLAMA_ARG_ENDPOINT_PROPS",)),
    Unsafe(("--media-path",), "whoever asks the model has files of that folder read"),
    Unsafe(("--log-file", "--log-prompts-dir", "-lcd", "--lookup-cache-dynamic"), WRITES,
           ("LLAMA_ARG_LOG_FILE",)),
    Unsafe(("--slot-save-path",), "whoever reaches the model has files of that folder written and "
           "read, by /upstream/.../slots"),
    Unsafe(("--spec-draft-hf", "-hfd", "-hfrd", "--hf-repo-draft"), FETCHES,
           ("LLAMA_ARG_SPEC_DRAFT_HF_REPO",)),
)
# fmt: on

# Looked at, and taken: sampling, templates, drafts, threads, formats of the cache, how a model is
# divided over devices (moves keep to those that it is computed on), what nobody reaches through the
# proxy, and files that are only read.
HARMLESS: Final = frozenset(
    """
    -t --threads -tb --threads-batch -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll
    -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch -n
    --predict --n-predict -b --batch-size -ub --ubatch-size --keep --swa-full -fa --flash-attn
    --perf --no-perf -e --escape --no-escape --rope-scaling --rope-scale --rope-freq-base
    --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow
    --yarn-beta-fast -kvo --kv-offload -nkvo --no-kv-offload -nr --no-repack --no-host -ctk
    --cache-type-k -ctv --cache-type-v -dt --defrag-thold -lzm --lazy-mode --numa -dev --device
    -sm --split-mode -ts --tensor-split -mg --main-gpu
    --check-tensors --override-kv --op-offload --no-op-offload --lora --lora-scaled
    --control-vector --control-vector-scaled --control-vector-layer-range -hft --hf-token
    --log-jsonl --no-log-jsonl --log-colors -v --verbose --log-verbose --offline --log-prefix
    --no-log-prefix --log-timestamps --no-log-timestamps --spec-draft-type-k -ctkd
    --cache-type-k-draft --spec-draft-type-v -ctvd --cache-type-v-draft --samplers -s --seed
    --sampler-seq --sampling-seq --ignore-eos --temp --temperature --top-k --top-p --min-p
    --top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --typical --typical-p
    --repeat-last-n --repeat-penalty --presence-penalty --frequency-penalty --dry-multiplier
    --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker
    --adaptive-target --adaptive-decay --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr
    --mirostat-ent -l --logit-bias --grammar --grammar-file -j --json-schema -jf
    --json-schema-file -bs --backend-sampling --spec-draft-threads -td --threads-draft
    --spec-draft-threads-batch -tbd --threads-batch-draft --spec-draft-cpu-mask -Cd
    --cpu-mask-draft --spec-draft-cpu-range -Crd --cpu-range-draft --spec-draft-cpu-strict
    --cpu-strict-draft --spec-draft-prio --prio-draft --spec-draft-poll --poll-draft
    --spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft --spec-draft-cpu-strict-batch
    --cpu-strict-batch-draft --spec-draft-prio-batch --prio-batch-draft --spec-draft-poll-batch
    --poll-batch-draft --spec-draft-override-tensor -otd --override-tensor-draft
    --spec-draft-cpu-moe -cmoed --cpu-moe-draft --spec-draft-n-cpu-moe --spec-draft-ncmoe
    -ncmoed --n-cpu-moe-draft --spec-draft-n-max --spec-draft-n-min --spec-synth-len
    --spec-synth-rates --spec-draft-p-split --draft-p-split --spec-draft-p-min --draft-p-min
    --spec-draft-backend-sampling --no-spec-draft-backend-sampling --spec-draft-device -devd
    --device-draft --spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft
    --spec-draft-model -md --model-draft --spec-type --spec-ngram-mod-n-min
    --spec-ngram-mod-n-max --spec-ngram-mod-n-match --spec-ngram-simple-size-n
    --spec-ngram-simple-size-m --spec-ngram-simple-min-hits --spec-ngram-map-k-size-n
    --spec-ngram-map-k-size-m --spec-ngram-map-k-min-hits --spec-ngram-map-k4v-size-n
    --spec-ngram-map-k4v-size-m --spec-ngram-map-k4v-min-hits --draft --draft-n --draft-max
    --draft-min --draft-n-min --spec-ngram-size-n --spec-ngram-size-m --spec-ngram-min-hits -lcs
    --lookup-cache-static -ctxcp --ctx-checkpoints --swa-checkpoints -cms --checkpoint-min-step
    -cram --cache-ram -kvu --kv-unified -no-kvu --no-kv-unified --cache-idle-slots
    --no-cache-idle-slots --context-shift --no-context-shift -r --reverse-prompt -sp --special
    --warmup --spm-infill --pooling -cb --cont-batching -nocb --no-cont-batching -mm --mmproj
    --mmproj-auto --no-mmproj --no-mmproj-auto --mmproj-offload --no-mmproj-offload -mmdev
    --mmproj-device --image-min-tokens --image-max-tokens --mtmd-batch-max-tokens --video-fps
    --video-timestamp-interval --tags --embd-normalize --cors-origins --cors-methods
    --cors-headers --cors-credentials --no-cors-credentials --ui-config --webui-config
    --ui-config-file --webui-config-file --no-ui-mcp-proxy --no-webui-mcp-proxy -no-ag
    --no-agent --ui --webui --no-ui --no-webui --chat-template-kwargs -to --timeout
    --sse-ping-interval --threads-http --cache-prompt --no-cache-prompt --cache-reuse --metrics
    --slots --jinja --no-jinja --reasoning-format -rea --reasoning --reasoning-effort
    --reasoning-budget --reasoning-budget-message --reasoning-preserve --no-reasoning-preserve
    --chat-template --chat-template-file --skip-chat-parsing --no-skip-chat-parsing
    --prefill-assistant --no-prefill-assistant -sps --slot-prompt-similarity
    --lora-init-without-apply --spec-default
    """.split()
)
