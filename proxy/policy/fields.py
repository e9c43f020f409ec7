"""Every key of the policies: the one table that all else about them comes from.

The loader, `policies/default.toml` and `docs/policies.md` are made from it, the dataclasses of
`proxy.policy.model` mirror it. To add a key: a row here, an attribute there, and
`python -m proxy.policy.reference` for the two files; tests name what is missing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from proxy.policy.schema import Effect, Field, Kind

NAME: Final = "*"  # in a key, stands for a name that the user chooses

# fmt: off
LIVE, RELOAD, RESTART = Effect.LIVE, Effect.RELOAD, Effect.RESTART

_SERVER: Final = (
    Field("server.host", Kind.LISTEN, "127.0.0.1", RESTART, local=True, env="OLLAMA_HOST",
          help='Address to listen on, or several; "0.0.0.0" and "::" are every address of this '
               "machine, IPv4 and IPv6."),
    Field("server.port", Kind.COUNT, 11434, RESTART, local=True, high=65535, env="OLLAMA_HOST",
          help="Port to listen on; 0 takes any free one."),
    Field("server.api_keys_file", Kind.PATH, None, LIVE, local=True, example="keys.txt",
          help="File with one API key a line, and what it may; without it, nobody is asked."),
    Field("server.hosts", Kind.HOSTS, [], LIVE, local=True, example=["llm.example.com"],
          help="Names by which it may be called, beside localhost, addresses and this machine's "
               "own; a request whose Host header has another one is refused."),
    Field("server.origins", Kind.ORIGINS, [], LIVE, local=True, env="OLLAMA_ORIGINS",
          example=["https://chat.example.com", "chrome-extension://*"],
          help="Web pages that may use it, by their origin, beside its own and those that Ollama "
               "allows: of localhost, 127.0.0.1, 0.0.0.0 and [::1] on any port, and of apps."),
    Field("server.remote_policies", Kind.FLAG, False, LIVE, local=True,
          help="Whether every key may be changed over HTTP. It counts only where api_keys_file is "
               "set; otherwise some keys are changed in their file alone."),
    Field("server.max_queue", Kind.COUNT, 512, LIVE, unit="requests", env="OLLAMA_MAX_QUEUE",
          help="Requests that may wait for a backend, or for their turn at one; the next one gets "
               "503 with Retry-After."),
    Field("server.timeout", Kind.DURATION, "0", LIVE, example="10m",
          help='How long a request may take, waiting and answering; "0" as long as it likes. Past '
               "it 504, or an error in the stream. A request may name less, as "
               "X-Moe-Proxy-Timeout."),
    Field("server.max_body", Kind.SIZE, "64MiB", LIVE, low=1, help="Largest request body."),
    Field("server.max_bodies", Kind.SIZE, "512MiB", LIVE, low=1,
          help="Bodies of all requests together; past it 503 with Retry-After."),
    Field("server.keep_prompts", Kind.SIZE, "0", LIVE, example="8GiB",
          help="What the conversations of unloaded models may take as files, until their models "
               "are loaded again and go on with them; 0 keeps none. They are beside the workers' "
               "sockets, which is often in RAM, and are gone when the proxy ends."),
    Field("server.keep_responses", Kind.SIZE, "64MiB", LIVE,
          help="What the last conversations of /v1/responses may take in memory, for requests that "
               "go on from one (previous_response_id); 0 keeps none."),
    Field("server.warm_workers", Kind.COUNT, 1, LIVE, high=8, unit="workers",
          help="Workers without a model that wait for the next load, which is done sooner then. "
               "Each takes some 30 MiB of RAM and no device's memory, and goes while RAM is short; "
               "0 has none."),
    Field("server.drain", Kind.DURATION, "30s", LIVE,
          help="How long a stop (SIGTERM) waits for running answers."),
)

_CATALOG: Final = (
    Field("catalog.dirs", Kind.PATHS, [], LIVE, local=True, example=["/models"],
          help="Folders whose *.gguf files are models; the parts of a split file count as one."),
    Field("catalog.ollama", Kind.FLAG, True, LIVE,
          help="Whether models of Ollama's own store are served."),
    Field("catalog.ollama_dir", Kind.PATH, None, LIVE, local=True, env="OLLAMA_MODELS",
          example="~/.ollama/models",
          help="Where Ollama's store is; without it, the places where Ollama keeps it are tried."),
    Field("catalog.state", Kind.PATH, "~/.local/share/moe-proxy", RESTART, local=True,
          help="Folder for pulled and created models; of one proxy at a time."),
)

_DEVICES: Final = (
    Field("devices.reserve", Kind.SIZE, "512MiB", LIVE, help="Memory left free on every device."),
    Field("devices.low", Kind.SIZE, "256MiB", LIVE,
          help="Free memory below this moves experts to the CPU at once; not above any reserve."),
    Field("devices.settle", Kind.DURATION, "10s", LIVE,
          help="How long free memory must last before experts move back to a device."),
    Field("devices.rpc", Kind.ADDRESSES, [], RELOAD, local=True, example=["10.0.0.2:50052"],
          help="llama.cpp RPC servers, used like local devices."),
    Field("devices.*.reserve", Kind.SIZE, None, LIVE, inherits="devices.reserve", example="2GiB",
          help="Memory left free on this device."),
    Field("devices.*.limit", Kind.SIZE, None, LIVE, example="10GiB",
          help="Never hold more than this on this device, whatever is free."),
    Field("devices.*.attention", Kind.FLAG, True, RELOAD,
          help="Whether attention, KV cache and the other dense parts may be on this device."),
    Field("devices.*.experts", Kind.FLAG, True, LIVE,
          help="Whether experts may be on this device."),
    Field("devices.*.memory", Kind.MEMORY, None, LIVE, example="nvml",
          help="Where its free memory is read; without it, found by PCI bus id."),
)

_ENGINE: Final = (
    Field("engine.libdir", Kind.PATH, None, RELOAD, local=True, example="/opt/llama.cpp/lib",
          help="Folder with llama.cpp's libraries; without it, those of llama-cpp-python."),
    Field("engine.backends", Kind.PATHS, [], RELOAD, local=True,
          example=["/opt/llama.cpp/libggml-vulkan.so"],
          help="Backends of ggml that are files of their own, beside those in that folder; of the "
               "same version of ggml."),
    Field("engine.threads", Kind.COUNT, None, RELOAD, low=1, high=4096, unit="threads", example=8,
          help="Threads that compute on the CPU; without it, llama.cpp's own choice."),
)

# These stand in [defaults] and in each [models."NAME"], which inherits what it does not set.
_LOADING: Final = (
    Field("defaults.moe_cpu_layers", Kind.SPLIT, "auto", LIVE, unit="layers",
          env="MOE_PROXY_MOE_OFFLOAD", env_wins=True,
          help="Layers whose experts are on the CPU, counted from the first: a number, -1 or "
               '"full" for all, "none" for 0, "auto" or "partial" for as few as memory allows; or '
               'just the layers named, counted from 0: "0-11,20".'),
    Field("defaults.dense_cpu_layers", Kind.SPLIT, None, LIVE, unit="layers", example="auto",
          help="The same for models without experts: layers whose feed-forward weights are on the "
               "CPU. Without it, such a model is loaded as a whole and nothing of it moves, so "
               "setting it for the first time takes a new backend. A request's moe_cpu_layers "
               "then counts for such a model too."),
    Field("defaults.ctx", Kind.COUNT, 8192, RELOAD, low=1, unit="tokens",
          env="OLLAMA_CONTEXT_LENGTH", help="Context that one conversation may use."),
    Field("defaults.ctx_step", Kind.COUNT, 4096, LIVE, low=1, unit="tokens",
          help="Where a request's num_ctx needs a model loaded, its context is rounded up to a "
               "multiple of this, and to one, two, four, eight... times this where that costs no "
               "experts their place on a device: chats grow, and each larger num_ctx would be one "
               "more load. 1 loads what is asked for."),
    Field("defaults.parallel", Kind.COUNT_OR_AUTO, "auto", RELOAD, low=1, high=256,
          unit="conversations", env="OLLAMA_NUM_PARALLEL",
          help="Conversations that a backend computes at the same time; further requests wait for "
               'their turn. Each has a KV cache of its own: "auto" is as many as cost no more than '
               "one in twenty of the layers with experts their place on a device, 4 at most. An "
               "engine of the kind command gets all at once, unless {parallel} is among its "
               "arguments."),
    Field("defaults.max_queue", Kind.COUNT, None, LIVE, unit="requests", example=32,
          help="Requests that may wait for one model; the next one gets 503 with Retry-After. "
               "Without it, server.max_queue alone counts."),
    Field("defaults.keep_alive", Kind.KEEP_ALIVE, "5m", LIVE, env="OLLAMA_KEEP_ALIVE",
          help='How long an unused model stays loaded; "0" not at all, "-1" for ever.'),
    Field("defaults.hang_timeout", Kind.DURATION, "10m", LIVE,
          help="How long a backend may have something to do and do nothing of it until it is taken "
               'to hang and is ended; "0" for ever. A worker that does not even answer the proxy '
               "itself is ended after a minute, or after this if it is shorter."),
    Field("defaults.engine", Kind.CHOICE, "hosted", RELOAD, local=True,
          choices=("hosted", "command"),
          help='"hosted" is llama.cpp inside a worker, where experts move while it answers; '
               '"command" is any program that serves the OpenAI API on a port.'),
    Field("defaults.command", Kind.TEXTS, [], RELOAD, local=True,
          example=["llama-server", "-m", "{model}", "--port", "{port}",
                   "--n-cpu-moe", "{moe_cpu_layers}"],
          help='The program of engine "command" and its arguments; {port}, {model}, {name}, {ctx}, '
               "{ctx_total}, {parallel}, {moe_cpu_layers} and {moe_cpu_layers_regex} are filled "
               "in. {port} must be among them."),
    Field("defaults.ready_path", Kind.READY_PATH, "/health", RELOAD,
          example="/v1/models",
          help='What tells that the program of engine "command" is ready: a path that it answers '
               'with 200. Where it has no "/health", "/v1/models" is asked instead. "none" for one '
               "that is ready when it takes connections."),
    Field("defaults.stop_command", Kind.TEXTS, [], RELOAD, local=True,
          example=["docker", "stop", "moe-proxy-{port}"],
          help='What stops the program of engine "command", where signals to it would not; the '
               "same is filled in as in command, and {pid}. It may take 15 s, then come the "
               "signals."),
    Field("defaults.load_timeout", Kind.DURATION, "5m", LIVE,
          help="How long a program that loads a model may print nothing until that has failed; one "
               'of engine "command" may take twelve times as long whatever it prints. "0" for '
               "ever."),
    Field("defaults.env", Kind.ENV, {}, RELOAD, local=True,
          example={"CUDA_VISIBLE_DEVICES": "1", "HF_TOKEN": "$HF_TOKEN"},
          help='Variables for the program of engine "command", beside the few of the proxy\'s own '
               "that every program gets, such as PATH and HOME."),
    Field("defaults.confine", Kind.FLAG, True, RELOAD, local=True,
          help="Whether a hosted model's worker may, as far as the kernel can see to it, write "
               "nowhere but into a folder of its own and its drivers' caches, connect nowhere but "
               "to rpc, and run no other program."),
    Field("defaults.split", Kind.CHOICE, "move", RELOAD, choices=("move", "separate"),
          help='What another moe_cpu_layers does: "move" moves the experts of the running '
               'backend, "separate" starts another one beside it.'),
    Field("defaults.tune", Kind.CHOICE, "balanced", RELOAD,
          choices=("balanced", "prompt", "generation"),
          help="What device memory is for first: larger batches, which read long prompts several "
               'times as fast, or experts, which generate faster. "balanced" takes a larger batch '
               'where it moves 5 % of the layers\' experts to the CPU at most, "prompt" 25 %, '
               '"generation" none.'),
    Field("defaults.repack", Kind.CHOICE, "auto", RELOAD, choices=("auto", "on", "off"),
          help="Whether experts on the CPU are kept in the layout of the fast CPU kernels, which "
               'takes RAM beside the mapped file; "auto" where RAM allows.'),
    Field("defaults.moe_cache", Kind.SIZE_OR_AUTO, "auto", RELOAD, example="4GiB",
          help="Device memory for llama.cpp's own cache of experts, where the build has one: the "
               "layers that have no room as a whole are computed on the device out of it. What it "
               'has does not move. "auto" is none, or what moe-proxy bench measured to be faster; '
               "0 is none."),
)

_MODELS: Final = (
    Field("models.*.path", Kind.PATH, None, RELOAD, local=True,
          example="/models/gpt-oss-120b-mxfp4-00001-of-00002.gguf",
          help="Model file, the first part of a split one; without it, the name is looked up "
               "in the catalogue."),
    Field("models.*.base", Kind.TEXT, None, RELOAD, example="gpt-oss",
          help="The model that this one is a variant of: it has its file and settings but for what "
               "is set here, and shares the loaded model where only the split or params differ."),
    Field("models.*.aliases", Kind.NAMES, [], LIVE, example=["gpt-4o", "claude-*"],
          help="Other names of this model; * stands for whatever comes there. Where several fit, "
               "an exact name wins, then the longest."),
    Field("models.*.pinned", Kind.FLAG, False, LIVE,
          help="Whether it stays loaded once it is: it is unloaded neither when it is idle nor to "
               "make way for another model. Its experts make way all the same."),
    Field("models.*.mode", Kind.CHOICE, "generation", RELOAD,
          choices=("generation", "embedding", "rerank"), help="What the model is loaded for."),
    Field("models.*.rpc", Kind.ADDRESSES_OR_FLEET, None, RELOAD, local=True, inherits="devices.rpc",
          example=["10.0.0.2:50052"],
          help="llama.cpp RPC servers for this model alone. Such a server has one client at a "
               'time: two models that share one are never loaded at once. "fleet" has other nodes '
               "of the fleet lend what this machine's devices lack, as long as it is loaded."),
    Field("models.*.params", Kind.PARAMS, {}, LIVE, example={"temperature": 1.0},
          help="Defaults for requests: what a request sets itself wins."),
    Field("models.*.args", Kind.TEXTS, [], RELOAD, local=True,
          example=["--reasoning-format", "auto"],
          help="More arguments for llama-server. What a hosted model cannot have is refused, with "
               "what to use instead."),
    Field("models.*.unsafe_args", Kind.FLAG, False, RELOAD, local=True,
          help="Whether args may be such as open files, ports or tools, or that the proxy does not "
               "know. Where there are any, the worker is not confined."),
)
# fmt: on

_INHERITED: Final = tuple(
    replace(
        field,
        key=field.key.replace("defaults.", "models.*."),
        default=None,
        inherits=field.key,
        env="",
        env_wins=False,
    )
    for field in _LOADING
)

FIELDS: Final = (
    *_SERVER, *_CATALOG, *_DEVICES, *_ENGINE, *_LOADING, *_MODELS[:5], *_INHERITED, *_MODELS[5:],
)  # fmt: skip
BY_KEY: Final[Mapping[str, Field]] = {field.key: field for field in FIELDS}

Tree: TypeAlias = dict[str, "Field | Tree"]


def _tree() -> Tree:
    root: Tree = {}
    for field in FIELDS:
        node = root
        for part in field.path[:-1]:
            child = node.setdefault(part, {})
            assert isinstance(child, dict)
            node = child
        node[field.path[-1]] = field
    return root


# The same keys as the tables they are in; under NAME is the table that users name themselves.
TREE: Final = _tree()


def fields_of(table: str) -> tuple[Field, ...]:
    """The keys of one table, "server" or "models.*", in the order of the reference."""
    return tuple(field for field in FIELDS if field.key.rpartition(".")[0] == table)
