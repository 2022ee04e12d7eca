"""`hf-store`: lm-eval's Hugging Face model, with a look inside while it is evaluated."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lm_eval_ext.autoload import check_import_names
from lm_eval_ext.versions import check_versions

check_import_names()
check_versions()

import torch  # noqa: E402
import transformers  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from torch import Tensor  # noqa: E402

from lm_eval_ext import arguments  # noqa: E402
from lm_eval_ext.again import forced_pass, further_passes  # noqa: E402
from lm_eval_ext.arch import blocks  # noqa: E402
from lm_eval_ext.elicit import Text  # noqa: E402
from lm_eval_ext.forced import ForcedPass, Found  # noqa: E402
from lm_eval_ext.generation import GenerationSession  # noqa: E402
from lm_eval_ext.link import announce_results, fail  # noqa: E402
from lm_eval_ext.notes import Notes  # noqa: E402
from lm_eval_ext.opening import open_together, refuse_existing  # noqa: E402
from lm_eval_ext.preflight import check_config, check_decoder, check_model, probe  # noqa: E402
from lm_eval_ext.ranks import from_first, settle  # noqa: E402
from lm_eval_ext.recorder import Recorder, say  # noqa: E402
from lm_eval_ext.repeats import check_repeats, generations  # noqa: E402
from lm_eval_ext.requests import Identity, Listener, TaggedPair, TaggedPrompt, tag  # noqa: E402
from lm_eval_ext.scoring import RollingSession, ScoringSession, count_windows  # noqa: E402
from lm_eval_ext.serving import answered  # noqa: E402
from lm_eval_ext.together import Together, read_once  # noqa: E402
from lm_eval_ext.translators import Translators  # noqa: E402
from metrics.layers import select  # noqa: E402

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class HFStoreLM(HFLM):
    """`HFLM` that records, for each request, signals of the model's logits, hidden states and attention.

    The evaluation is untouched: every answer is computed by the parent class, in its batches; this class only tags the
    requests on their way in and looks at the tensors on their way out.

    Args:
        pretrained: as for ``hf``; so are all arguments not named here.
        store: folder to record into; ``hf-store/<model>/<UTC time>`` by default.
        store_mode: ``new`` refuses an existing store; ``resume`` goes on with it and does not ask the model again what
            it holds; ``overwrite`` empties it.
        metrics: metrics to prepare for, by name or preset (``standard``, ``all``), joined by ``+``.
        signals: further signals to keep, by name or preset.
        raw: raw tensors to keep whole: any of ``logits+hidden+attention``.
        layers: layers of hidden states and attention to record: ``all``, ``last:4``, ``0+4+-1``, ``0.5``.
        raw_dtype: precision of raw tensors: float32, float16 or bfloat16; by default the model's own.
        store_text: whether answers and token ids of prompts and answers are kept (they are private data).
        max_store_gb: size at which recording stops; the evaluation goes on.
        lens: a tuned lens for the signals of the lens: a safetensors file, or a folder of the tuned-lens package.
        repeats_together: whether a document's `repeats` are generated in one batch, which reads their prompt once; the
            draws are then others than those of ``hf`` with a smaller batch.

    Raises:
        ValueError: an option or the model does not allow it; before any work.
        FileExistsError: the store exists and `store_mode` is ``new``.
        BlockingIOError: another process writes the store.
    """

    def __init__(
        self,
        pretrained: str | transformers.PreTrainedModel,
        *,
        store: Any = None,
        store_mode: Any = "new",
        metrics: Any = "standard",
        signals: Any = None,
        raw: Any = None,
        layers: Any = "all",
        raw_dtype: Any = None,
        store_text: Any = True,
        max_store_gb: Any = None,
        lens: Any = None,
        repeats_together: Any = False,
        **host: Any,
    ) -> None:
        try:
            options = arguments.read(
                pretrained,
                store,
                store_mode,
                metrics,
                signals,
                raw,
                layers,
                raw_dtype,
                store_text,
                max_store_gb,
                lens,
                repeats_together,
            )
            self.translators = Translators(options.lens) if options.lens is not None else None
            arguments.refuse_misspelt(host, HFLM.__init__)
            arguments.refuse_unseen(host)
            refuse_existing(options)
        except (ValueError, OSError) as problem:
            fail(problem)
        self._options = options
        self._together = Together(options.repeats_together)
        super().__init__(pretrained, **host)
        self._session: ScoringSession | GenerationSession | None = None
        self._probing = False
        try:
            settle(self)
            self._options = replace(options, store=from_first(options.store, self.world_size))
            self._layers = self._check_model()
            self._recorder = open_together(self, self._options, host)
        except (ValueError, OSError) as problem:
            fail(problem)
        self.notes = Notes(self._recorder, self.rank)
        self._end = weakref.finalize(self, self._recorder.close)
        announce_results()
        self._say(f"recording into {self.store_path}")

    def _get_backend(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """As the parent's; then, before tokenizer and weights are read, refuse what cannot be recorded."""
        super()._get_backend(config, *args, **kwargs)
        try:
            check_decoder(config, backend=self.backend)
            if not hasattr(self, "_model"):  # given by name, not as an object
                check_config(config, self._options.plan)
        except ValueError as problem:
            fail(problem)

    def _check_model(self) -> tuple[int, ...]:
        plan = self._options.plan
        check_model(self.model, plan)
        self._further = further_passes(self, plan)
        if not plan.extra_pass:
            return ()
        depth = len(blocks(self.model))
        layers = select(self._options.layers, depth)
        if "lens" in plan.capture:
            layers = tuple(sorted({*layers, depth}))  # what its metrics hold the others against
        probe(self.model, plan, layers, device=self.device, translators=self.translators)
        return layers

    def _say(self, text: str) -> None:
        if self.rank == 0:
            say(text)

    @property
    def store_path(self) -> str:
        """The folder that is recorded into."""
        return str(self._options.store)

    # ------------------------------------------------------------------ requests in, answers out

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As the parent's; each request becomes a record."""

        def ask(todo: list[Instance], identities: list[Identity | None]) -> list[tuple[float, bool]]:
            with self._recording(ScoringSession(self, identities)):
                return super(HFStoreLM, self).loglikelihood(todo, disable_tqdm=disable_tqdm)

        return answered(self, "loglikelihood", requests, ask)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """As the parent's; each request becomes one record over all its windows."""

        def ask(todo: list[Instance], identities: list[Identity | None]) -> list[float]:
            session = RollingSession(self, identities, [count_windows(self, r.args[0]) for r in todo])
            with self._recording(session):
                return super(HFStoreLM, self).loglikelihood_rolling(todo, disable_tqdm=disable_tqdm)

        return answered(self, "loglikelihood_rolling", requests, ask)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """As the parent's; each request becomes a record."""

        def ask(todo: list[Instance], identities: list[Identity | None]) -> list[str]:
            tagged, found = tag(todo), [""] * len(todo)
            with self._recording(GenerationSession(self, identities)):
                for repeats, places in self._together.groups(todo):
                    with self._together.in_rows(repeats):
                        some = [tagged[place] for place in places]
                        answers = super(HFStoreLM, self).generate_until(some, disable_tqdm=disable_tqdm)
                    for place, answer in zip(places, answers):
                        found[place] = answer
            return found

        asked = generations(requests)
        self._look_over(asked)
        try:
            return answered(self, "generate_until", requests, ask)
        finally:
            self.notes.generations(asked, together=self._together.asked)

    def _look_over(self, asked: Sequence[Mapping[str, Any]]) -> None:
        """Refuse repeats that are all one answer, before any is generated."""
        own = self.model.generation_config.to_dict() if self.model.can_generate() else {}
        try:
            check_repeats(asked, own, samples=self._options.plan.samples, tell=self._say)
        except ValueError as problem:
            self._recorder.discard()
            fail(problem)

    @property
    def batch_size(self) -> Any:
        """As the parent's; no smaller than a document's repeats, where they are generated together."""
        return self._together.at_least(super().batch_size)

    @contextmanager
    def _recording(self, session: ScoringSession | GenerationSession) -> Iterator[None]:
        if not self._recorder.on:
            say(f"{self.store_path} takes no more records; these requests are evaluated only", self.rank)
        self._session, hook = session, self.cache_hook
        self.cache_hook = Listener(
            hook, lambda place, answer: self._recorder.watch(lambda: session.heard(place, answer))
        )
        try:
            yield
            self._recorder.watch(session.finish)
        finally:
            self._session, self.cache_hook = None, hook
            self._recorder.flush()

    # ------------------------------------------------------------------ the seams of the parent class

    def _loglikelihood_tokens(self, requests: list[Any], **options: Any) -> list[tuple[float, bool]]:
        if isinstance(self._session, ScoringSession):
            places = self._session.begin(requests)
            requests = [(TaggedPair(r[0], place), *r[1:]) for place, r in zip(places, requests)]
        return super()._loglikelihood_tokens(requests, **options)

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._probing or not isinstance(self._session, ScoringSession):
            return super()._model_call(inps, *args, **kwargs)
        self._recorder.watch(self._session.flush)
        logits = super()._model_call(inps, *args, **kwargs)
        self._session.batch(logits)
        return logits

    def _select_cont_toks(self, logits: Tensor, contlen: int | None = None, inplen: int | None = None) -> Tensor:
        if isinstance(self._session, ScoringSession) and inplen is not None:
            self._session.row(inplen)
        return super()._select_cont_toks(logits, contlen=contlen, inplen=inplen)

    def tok_batch_encode(self, strings: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As the parent's; a batch of tagged prompts is noted."""
        plain = [str(s) for s in strings]
        ids, mask = super().tok_batch_encode(plain, *args, **kwargs)
        if isinstance(self._session, GenerationSession) and all(isinstance(s, TaggedPrompt) for s in strings):
            session = self._session
            self._recorder.watch(lambda: session.batch(strings, ids, mask))
        return ids, mask

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation: Any) -> Tensor:
        if self._together.rows is None:
            return self._generate(context, max_length, stop, **generation)
        mask, pad = generation.pop("attention_mask"), self.tokenizer.pad_token_id

        def generate(ids: Tensor, mask: Tensor) -> Tensor:
            with self._mixed():
                cache = read_once(self.model, ids, mask, generation, pad)
            read = {} if cache is None else {"past_key_values": cache}
            return self._generate(ids, max_length, stop, **{**generation, "attention_mask": mask, **read})

        return self._together.generate(generate, context, mask, pad, tell=lambda text: say(text, self.rank))

    def _generate(self, context: Tensor, max_length: int, stop: list[str], **generation: Any) -> Tensor:
        """As the parent's `_model_generate`; what it generates is looked at on its way out."""
        session = self._session
        if not isinstance(session, GenerationSession) or not self._recorder.on:
            return super()._model_generate(context, max_length, stop, **generation)
        with session.tap() as tap:
            found = super()._model_generate(context, max_length, stop, **generation)
        eos = generation.get("eos_token_id")
        self._recorder.watch(lambda: session.generated(tap, found, context.shape[1], stop, eos))
        return found

    def _mixed(self) -> torch.autocast:
        """The precision in which the parent lets its passes run."""
        dtype = getattr(self, "mixed_precision_dtype", None)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _detect_batch_size(self, *args: Any, **kwargs: Any) -> int:
        if isinstance(self._session, ScoringSession):
            self._recorder.watch(self._session.flush)  # the probe has to find the memory that hf would find
        self._probing = True
        try:
            found = super()._detect_batch_size(*args, **kwargs)
        finally:
            self._probing = False
        self.notes.batch_size(found)
        return found

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Write what is pending, mark the run as ended and let another writer in; otherwise done at exit."""
        self._end()

    def get_model_info(self) -> dict[str, Any]:
        """As the parent's, with the store's path and run id, which lm-eval writes into its result file."""
        self._recorder.flush()
        writer = self._recorder.writer
        say(f"{self._recorder.count(self.world_size)} in {writer.path}")
        linked = {"store": str(writer.path.absolute()), "run_id": writer.run_id}
        return {**super().get_model_info(), "hf_store": linked}

    @functools.cached_property
    def forced(self) -> ForcedPass:
        """The pass over what was asked and answered, for hidden states and attention."""
        return forced_pass(self, self._options.plan)

    def look_again(self, texts: Sequence[Text], *, logits: bool = False, further: bool = True) -> Found:
        """What the passes after the evaluation's own find in each text; nothing, at no cost, where none was asked for.

        Args:
            texts: what was asked and answered, each of at least one token of prompt and continuation.
            logits: whether the signals of the logits are wanted too.
            further: whether passes over other texts may be made (`lm_eval_ext.passes`).
        """
        wanted = self._options.plan.extra_pass or logits
        found = self.forced([(t.prompt, t.tokens) for t in texts], logits=logits) if wanted else [{} for _ in texts]
        if further:
            for one, more in zip(found, self._further(texts)):
                one.update(more)
        return found

    @property
    def recorder(self) -> Recorder:
        """The open store."""
        return self._recorder

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of hidden states and attention that are recorded; empty when neither is."""
        return self._layers

    @property
    def raw_dtype(self) -> torch.dtype | None:
        """Precision of raw tensors, None for the model's own."""
        return getattr(torch, self._options.raw_dtype) if self._options.raw_dtype else None
