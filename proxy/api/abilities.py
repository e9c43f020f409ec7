"""What a model can be asked for, as its file says: looked up once for each state of it."""

from typing import Final

from cachetools import LRUCache

from proxy.catalog.gguf import GgufError
from proxy.catalog.local import Catalog
from proxy.dialect.ollama.models import Abilities, abilities, replaces_template
from proxy.errors import BadRequest
from proxy.routing.resolver import Model
from proxy.threads import MODELS

MOST_KEPT: Final = 1024


class KnownAbilities:
    """Asks the catalogue, off the loop, and remembers."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        # What changes. A model whose file or policy is another one is another object.
        self._known: LRUCache[Model, Abilities] = LRUCache(MOST_KEPT)

    async def of(self, model: Model) -> Abilities:
        """What the model can do; where there is no file to read, everything."""
        if (known := self._known.get(model)) is not None:
            return known
        if model.entry is None:
            return Abilities(chat=model.policy.mode == "generation")
        try:
            header = await MODELS.run(self._catalog.header, model.entry)
        except (GgufError, OSError):
            return Abilities()
        found = abilities(model.entry, header)
        if replaces_template(model.policy.args):
            found = Abilities(chat=found.chat)
        self._known[model] = found
        return found


def check_generates(model: Model, can: Abilities, what: str) -> None:
    """Raise BadRequest, in Ollama's words, for a model that gives nothing but vectors."""
    if not can.chat:
        raise BadRequest(f'"{model.name}" does not support {what}', param="model")


def check_tools(model: Model, can: Abilities) -> None:
    """Raise BadRequest for tools where the template has no place for them: the model would not
    hear of them."""
    if not can.tools:
        raise BadRequest(f"{model.name} does not support tools", param="tools")
