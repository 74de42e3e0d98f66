"""An ``Engine`` without a model, to test a whole run on any hardware, logical GPUs included.

``backend: scripted`` uses only the tokenizer of ``config.model``; it samples from the tokens of plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.engines.config import EngineConfig
from actors.engines.requests import check_adapter, check_prompt, check_schema
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.protocols import Engine
from rlenv.core.types import Adapter, Generation, Sampling
from rlenv.speakers.scripted import EngineScript, ScriptedEngine


class ScriptedBackend(Engine):
    """A ``ScriptedEngine`` with an ``EngineConfig``. Call ``start`` before the first request."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._engine: ScriptedEngine | None = None
        self._vocab_size = 0

    async def start(self) -> None:
        """Reads the tokenizer.

        Raises:
            ConfigError: there is none at ``config.model``.
        """
        vocabulary, self._vocab_size = plain_tokens(Path(self.config.model) / "tokenizer.json")
        self._engine = ScriptedEngine(vocabulary, EngineScript(seed=self.config.seed), self.config.max_model_len)

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """Returns one continuation; see ``rlenv.core.protocols.Engine``. Only the pool uses ``conversation``."""
        if self._engine is None:
            raise EngineError("the engine is not running; call start() first")
        check_prompt(token_ids, sampling, self.config.max_model_len, self._vocab_size)
        check_schema(sampling, self.config.structured)
        check_adapter(adapter, self.config)
        return await self._engine.generate(token_ids, sampling, adapter, conversation)

    def close(self) -> None:
        """Releases the tokenizer; safe to call twice."""
        self._engine = None


def plain_tokens(path: Path) -> tuple[list[int], int]:
    """Returns (ids of the tokens that are printable ASCII, number of all tokens) of a tokenizer.

    Raises:
        ConfigError: there is no tokenizer at ``path``.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ConfigError(f"backend scripted needs a tokenizer at {path}; set model to a checkpoint's folder")
    tokenizer = Tokenizer.from_file(str(path))
    added = set(tokenizer.get_added_tokens_decoder())
    size = tokenizer.get_vocab_size()
    texts = {i: tokenizer.decode([i], skip_special_tokens=False) for i in range(size) if i not in added}
    return [i for i, text in texts.items() if text.isascii() and text.isprintable() and text.strip()], size
