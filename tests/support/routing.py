"""A folder with policies and small models, as the router and what it is made of see it."""

from pathlib import Path

from proxy.catalog.local import Catalog
from proxy.engine.types import Mode
from proxy.policy.load import load
from proxy.routing.load_plan import HeaderFacts, LoadPlan, header_facts, plan_for
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Resolver
from tests.support import models

LAYERS = 4
TRAINED = 8192
POLICY = """
[engine]
threads = 3
[devices]
rpc = ["127.0.0.1:50052"]
[defaults]
ctx = 4096
keep_alive = "1m"
[models.tiny]
path = "tiny.gguf"
aliases = ["gpt-4o", "claude-*"]
moe_cpu_layers = 2
args = ["--jinja"]
keep_alive = "-1"
[models.apart]
path = "tiny.gguf"
aliases = ["Claude-Opus*", "*-haiku-4*"]
split = "separate"
moe_cpu_layers = 3
[models.apart-auto]
path = "tiny.gguf"
split = "separate"
[models.embedder]
path = "tiny.gguf"
mode = "embedding"
[models.averaged]
path = "tiny.gguf"
args = ["--pooling", "mean"]
[models.by-hand]
path = "tiny.gguf"
args = ["--pooling", "mean", "--ubatch-size", "1024"]
[models.encoder]
path = "encoder.gguf"
[models.foreign]
path = "tiny.gguf"
engine = "command"
command = ["srv", "{port}", "-m", "{model}", "-c", "{ctx}", "--n-cpu-moe", "{moe_cpu_layers}"]
[models.fixed]
path = "tiny.gguf"
engine = "command"
command = ["srv", "{port}"]
[models.elsewhere]
engine = "command"
command = ["srv", "{port}"]
[models.folded]
ctx = 2048
[models.ghost]
[models.long]
path = "tiny.gguf"
ctx = 99999
[models.variant]
base = "gpt-4o"
moe_cpu_layers = 4
params = { temperature = 0.1 }
[models.same]
base = "tiny"
pinned = true
[models.larger]
base = "tiny"
ctx = 8192
[models.dense]
path = "dense.gguf"
dense_cpu_layers = 1
[models.whole]
path = "dense.gguf"
[models.expert]
path = "tiny.gguf"
dense_cpu_layers = 1
[models.dense-apart]
path = "dense.gguf"
split = "separate"
dense_cpu_layers = "full"
[models.dense-variant]
base = "dense"
dense_cpu_layers = 2
moe_cpu_layers = 3
"""


class Folder:
    """Real files and policies, and a catalogue of them; `policies` may be set to others."""

    def __init__(self, folder: Path) -> None:
        (folder / "tiny.gguf").symlink_to(models.model(layers=LAYERS))
        (folder / "dense.gguf").symlink_to(models.model("qwen3", layers=LAYERS))
        (folder / "encoder.gguf").symlink_to(models.model("bert", layers=2))
        (folder / "more").mkdir()
        other = models.model(layers=LAYERS, seed=1)
        (folder / "more" / "Folded-Q8_0.gguf").symlink_to(other)
        (folder / "more" / "broken.gguf").write_bytes(b"GGUF")
        (folder / "policies.toml").write_text(POLICY)
        loaded = load(folder / "policies.toml", {"HOME": str(folder)})
        assert loaded.policies is not None, loaded.problems
        self.policies = loaded.policies
        named = {p.name: p.path for p in self.policies.models.values() if p.path}
        self.catalog = Catalog([folder / "more"], named)
        self.path = folder / "tiny.gguf"
        self.resolver = Resolver(lambda: self.policies, self.catalog)

    def plan(self, request: ModelRequest, mode: Mode = "generation") -> LoadPlan:
        """What is loaded for a request, but for the batch."""
        model = self.resolver.resolve(request.model)
        header = self.catalog.header(model.entry) if model.entry else None
        return plan_for(
            request, mode, model, header_facts(header) if header else HeaderFacts(0, None)
        )
