"""The ``Engine`` protocol on plain transformers and peft, for where vLLM cannot be installed.

Requests join and leave between any two steps. A prompt is read alone; then all requests of one adapter take each step
together, padded to a multiple of ``ROWS`` rows, each attending to keys of its own (``row_attention.py``). So the tokens
and log-probs of a request do not depend on the batch around it. Log-probs are of the distribution sampled from, as in
``vllm_engine.py``. No prefix is kept from one request to the next.
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
from rlenv.core.types import Adapter, Generation, Sampling

ROWS = 16  # a matrix product of fewer rows may sum in another order


class _Request:
    """One request on its way: what was asked, what has been sampled, and who waits for it."""

    def __init__(self, token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None) -> None:
        self.token_ids = list(token_ids)
        self.sampling = sampling
        self.adapter = adapter
        self.reply: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self.sampler = Sampler(sampling)
        self.cache = RowCache(len(self.token_ids) + sampling.max_tokens)
        self.sampled: list[int] = []
        self.logprobs: list[float] = []

    def take(self, logits: Any) -> None:
        """Samples the next token from ``logits``."""
        token, logprob = self.sampler(logits)
        self.sampled.append(token)
        self.logprobs.append(logprob)

    @property
    def stopped(self) -> bool:
        """True after a stop token."""
        return bool(self.sampled) and self.sampled[-1] in self.sampling.stop_token_ids

    @property
    def finished(self) -> bool:
        """True when there is nothing more to sample."""
        return self.stopped or len(self.sampled) == self.sampling.max_tokens

    def answer(self) -> None:
        """Gives whoever waits the reply."""
        if not self.reply.done():
            self.reply.set_result(
                Generation(
                    token_ids=tuple(self.sampled),
                    logprobs=tuple(self.logprobs),
                    finish_reason="stop" if self.stopped else "length",
                    adapter=self.adapter,
                )
            )


class TransformersEngine:
    """``AutoModelForCausalLM`` with adapters loaded by version. ``start`` before the first request."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._base: Any = None
        self._peft: Any = None
        """The same model with adapter layers in it, once there is an adapter."""
        self._loaded: list[str] = []
        """Adapter versions in memory, the longest unused first."""
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
        """Returns one sampled continuation; see ``Engine``. The pool alone reads ``conversation``."""
        if self._base is None:
            raise EngineError("the engine is not running; call start() first")
        check_prompt(token_ids, sampling, self.config.max_model_len, self._base.config.vocab_size)
        check_schema(sampling, self.config.structured)
        check_adapter(adapter, self.config.max_loras, self.config.max_lora_rank)
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
            raise ConfigError(f"{self.config.model}: no model can be loaded from there ({error})") from None
        self._base = model.eval().to("cpu" if self.config.on_cpu else "cuda")

    def _step(self, new: Sequence[_Request]) -> None:
        """Reads the new requests' prompts, each alone, then takes one step with the others, adapter by adapter."""
        fresh = set(map(id, new))
        for adapter in dict.fromkeys(request.adapter for request in self._active):
            self._use(adapter)
            for request in new:
                if request.adapter == adapter:
                    self._forward([request], [request.token_ids])
            going = [r for r in self._active if r.adapter == adapter and id(r) not in fresh and not r.finished]
            if going:
                self._forward(going, [[request.sampled[-1]] for request in going])

    def _forward(self, requests: Sequence[_Request], token_ids: list[list[int]]) -> None:
        """One pass of the model over each request's next tokens, and one sampled token for each."""
        import torch

        tokens = len(token_ids[0])
        padding = -len(requests) % ROWS if tokens == 1 else 0
        starts = torch.tensor([[request.cache.length] for request in requests] + [[0]] * padding)
        cache = BatchCache([request.cache for request in requests])
        with torch.inference_mode():
            out = self._base(
                input_ids=torch.tensor(token_ids + [[0]] * padding, device=self._base.device),
                position_ids=(starts + torch.arange(tokens)).to(self._base.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache.advance(tokens)
            logits = out.logits[:, -1].float().cpu()
            for row, request in enumerate(requests):
                request.take(logits[row])

    def _use(self, adapter: Adapter | None) -> None:
        """Makes ``adapter`` the one in force; loads it where it is new, forgets the longest unused where it must."""
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
