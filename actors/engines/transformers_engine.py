"""An ``Engine`` on plain transformers and peft, for machines on which vLLM cannot be installed.

Requests join and leave between any two steps. A prompt is processed alone, once for all requests that join with it;
then all requests of one adapter take each step together, padded to a multiple of ``ROWS`` rows, each attending only to
its own keys (``row_attention.py``). So the tokens and log-probs of a request do not depend on its batch. Log-probs are
of the distribution that was sampled from, as in ``vllm_engine.py``. Beyond that there is no prefix cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actors.engines.config import EngineConfig
from actors.engines.requests import adapter_key, check_adapter, check_prompt, check_schema
from actors.engines.row_attention import NAME, BatchCache, RowCache, attend
from actors.engines.sampler import Sampler
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.protocols import Engine
from rlenv.core.types import Adapter, Generation, Sampling

ROWS = 16  # a matrix product of fewer rows may sum in another order


class _Request:
    """A request in progress: its arguments, the tokens sampled so far, and the future of its reply."""

    def __init__(self, token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None) -> None:
        self.token_ids = tuple(token_ids)
        self.sampling = sampling
        self.adapter = adapter
        self.reply: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self.sampler = Sampler(sampling)
        self.cache = RowCache(len(self.token_ids) + sampling.max_tokens)
        self.cached_tokens = 0
        self.sampled: list[int] = []
        self.logprobs: list[float] = []

    def take(self, logits: Any) -> None:
        """Samples the next token from ``logits``."""
        token, logprob = self.sampler(logits)
        self.sampled.append(token)
        self.logprobs.append(logprob)

    def read_with(self, other: _Request, logits: Any) -> None:
        """Copies what ``other`` has just read of the same prompt, and samples the first token from its ``logits``."""
        self.cache.copy(other.cache)
        self.cached_tokens = len(self.token_ids)
        self.take(logits)

    @property
    def stopped(self) -> bool:
        """True after a stop token."""
        return bool(self.sampled) and self.sampled[-1] in self.sampling.stop_token_ids

    @property
    def finished(self) -> bool:
        """True when there is nothing more to sample."""
        return self.stopped or len(self.sampled) == self.sampling.max_tokens

    def answer(self) -> None:
        """Sets the reply."""
        if not self.reply.done():
            self.reply.set_result(
                Generation(
                    token_ids=tuple(self.sampled),
                    logprobs=tuple(self.logprobs),
                    finish_reason="stop" if self.stopped else "length",
                    adapter=self.adapter,
                    cached_tokens=self.cached_tokens,
                )
            )


class TransformersEngine(Engine):
    """``AutoModelForCausalLM`` with adapters loaded by version. Call ``start`` before the first request."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._base: Any = None
        self._peft: Any = None
        """The same model with adapter layers, after the first adapter was loaded."""
        self._loaded: list[str] = []
        """Adapter versions in memory, the least recently used first."""
        self._pending: list[_Request] = []
        self._active: list[_Request] = []
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def start(self) -> None:
        """Loads the model; returns when requests are served.

        Raises:
            ConfigError: there is no model at ``config.model``.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """Returns one sampled continuation; see ``Engine``. Only the pool uses ``conversation``."""
        if self._base is None:
            raise EngineError("the engine is not running; call start() first")
        check_prompt(token_ids, sampling, self.config.max_model_len, self._base.config.vocab_size)
        check_schema(sampling, self.config.structured)
        check_adapter(adapter, self.config)
        request = _Request(token_ids, sampling, adapter)
        self._pending.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._serve())
        return await request.reply

    def close(self) -> None:
        """Frees the model; safe to call twice."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._base = self._peft = None

    async def _serve(self) -> None:
        """Steps while there are requests; each step admits what is pending and answers what is finished."""
        loop = asyncio.get_running_loop()
        try:
            while self._pending or self._active:
                room = self.config.max_num_seqs - len(self._active)
                new, self._pending = self._pending[:room], self._pending[room:]
                self._active += new
                await loop.run_in_executor(self._thread, self._step, new)
                for request in self._active:
                    if request.finished:
                        request.answer()
                self._active = [request for request in self._active if not request.reply.done()]
        except Exception as error:
            failed, self._active, self._pending = self._active + self._pending, [], []
            for request in failed:
                if not request.reply.done():
                    request.reply.set_exception(EngineError(f"the model failed: {type(error).__name__}: {error}"))

    # ------------------------------------------------------------------- in the model's own thread

    def _load(self) -> None:
        import torch
        from transformers import AttentionInterface, AutoModelForCausalLM

        torch.set_num_threads(self.config.threads)
        AttentionInterface.register(NAME, attend)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                self.config.model, dtype=self.config.served_dtype, attn_implementation=NAME
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.config.model}: cannot load a model from there ({error})") from None
        self._base = model.eval().to("cpu" if self.config.on_cpu else "cuda")

    def _step(self, new: Sequence[_Request]) -> None:
        """Processes each new prompt alone, then takes one step with the other requests, adapter by adapter."""
        fresh = set(map(id, new))
        for adapter in dict.fromkeys(request.adapter for request in self._active):
            self._use(adapter)
            prompts: dict[tuple[int, ...], list[_Request]] = {}
            for request in new:
                if request.adapter == adapter:
                    prompts.setdefault(request.token_ids, []).append(request)
            for first, *others in prompts.values():
                logits = self._forward([first], [first.token_ids])[0]
                for other in others:
                    other.read_with(first, logits)
            running = [r for r in self._active if r.adapter == adapter and id(r) not in fresh and not r.finished]
            if running:
                self._forward(running, [[request.sampled[-1]] for request in running])

    def _forward(self, requests: Sequence[_Request], token_ids: Sequence[Sequence[int]]) -> Any:
        """Runs the model over each request's next tokens, samples one token for each, and returns the logits
        [requests, vocabulary]."""
        import torch

        tokens = len(token_ids[0])
        padding = -len(requests) % ROWS if tokens == 1 else 0
        starts = torch.tensor([[request.cache.length] for request in requests] + [[0]] * padding)
        cache = BatchCache([request.cache for request in requests])
        with torch.inference_mode():
            out = self._base(
                input_ids=torch.tensor([*token_ids, *[[0]] * padding], device=self._base.device),
                position_ids=(starts + torch.arange(tokens)).to(self._base.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache.advance(tokens)
            logits = out.logits[:, -1].float().cpu()
            for row, request in enumerate(requests):
                request.take(logits[row])
        return logits[: len(requests)]

    def _use(self, adapter: Adapter | None) -> None:
        """Activates ``adapter``; loads it if necessary, in place of the least recently used one if the limit is
        reached."""
        from peft import PeftModel

        if adapter is None:
            if self._peft is not None:
                self._peft.base_model.disable_adapter_layers()
            return
        key = adapter_key(adapter).replace(".", "_")  # torch's module names have no dots
        if key in self._loaded:
            self._loaded.remove(key)
        elif self._peft is None:
            self._peft = PeftModel.from_pretrained(self._base, adapter.path, adapter_name=key)
        else:
            if len(self._loaded) == self.config.max_loras:
                self._peft.delete_adapter(self._loaded.pop(0))
            self._peft.load_adapter(adapter.path, adapter_name=key)
        self._loaded.append(key)
        self._peft.base_model.enable_adapter_layers()
        self._peft.set_adapter(key, inference_mode=True)
