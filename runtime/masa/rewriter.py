"""The rewriter: (bank, model card) → the bank rewritten for that backbone, on this device.

    from masa import Rewriter, load_bank, resolve_backbone

    with Rewriter.load("smollm2-135m") as rewriter:
        result = rewriter.rewrite(load_bank("skills.json"), resolve_backbone("agent.gguf"))

Nothing here opens a socket or prints. A group whose output is refused, cut or does not fit stays as it was, and
the result says why: a device never gets worse text because of a bad generation.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from masa import __version__, asynchronous
from masa.artifact import Artifact, load_artifact
from masa.cache import RewriteCache, cache_key
from masa.card_calls import NO_WEAKNESSES, OFF, SWITCHES, as_read, nothing_to_do, switched_off
from masa.edits import EDITS
from masa.engine import Engine, Part, check_lent, check_options
from masa.errors import BackendError, MasaError, UnknownNameError
from masa.estimate import Estimate, GroupEstimate, measure, seconds
from masa.group_rewrite import CAUTIOUS_EDITS, Work, from_cache, prepare, refuse, to_cache, without_repeats
from masa.json_fields import did_you_mean
from masa.languages import LANGUAGES, PARALLEL
from masa.progress import Progress, Tracker
from masa.prompt import Request
from masa.provenance import GroupResult, RewriteResult
from masa.rewording import forced_plan, orders_of, plan_of, reword, with_rewordings
from masa.sampling import Sampling
from masa.skills import GENERAL, Group, SkillBank
from masa.wording import OPERATIONS

if TYPE_CHECKING:
    from masa.backends import Backend
    from masa.cards import ModelCard
    from masa.facts import Facts


_RULES = 6
"""Raised whenever the same output comes to mean another result, so that the cache does not answer by older rules."""


class Options(TypedDict, total=False):
    """What every kind of rewrite takes besides the bank and the card. All are optional.

    Attributes:
        task: what the agent does, in a few words.
        environment: where it does it.
        facts: interface facts of the environment, where known.
        only: keys of the groups to rewrite (`general_skills` or task types); default all.
        pinned: ids of skills that must not be touched.
        without: names of edits that a plan must not use, such as `shorten`; `warn` stands for every warning.
        also: names of edits that a plan may use although they are off by default (`masa.card_calls.OFF`).
        operation: one operation of `masa.wording.OPERATIONS` on every skill; no plan is asked for, and the card is not
            read.
        sampling: how tokens are chosen; greedy by default.
        on_progress: called from the rewriting thread after every prompt and step.
        cancel: polled between steps; once true, unfinished groups stay as they are.
    """

    task: str
    environment: str
    facts: Facts | None
    only: Collection[str] | None
    pinned: Collection[str]
    without: Collection[str]
    also: Collection[str]
    operation: str
    sampling: Sampling | None
    on_progress: Callable[[Progress], None] | None
    cancel: Callable[[], bool]


def check_request(bank: SkillBank, options: Mapping[str, Any]) -> None:
    """Make sure that a rewrite of `bank` can be asked for with these `Options`.

    Raises:
        UnknownNameError: for an option that there is not, a group or the id of a pinned skill that the bank has not.
        MasaError: for a bank or a value of the wrong type.
    """
    for name, value in options.items():
        if name not in _TYPES:
            hint = did_you_mean(name, _TYPES) or f"; there are: {', '.join(_TYPES)}"
            raise UnknownNameError(f"a rewrite has no option {name!r}{hint}")
        what, fits = _TYPES[name]
        if not fits(value):
            shown = f"the text {value!r}" if isinstance(value, str) else f"a {type(value).__name__}"
            raise MasaError(f"{name} must be {what}, not {shown}")
    for name in options.get("without", ()):
        if name not in EDITS or name == "keep":
            hint = did_you_mean(name, EDITS) or f"; there are: {', '.join(edit for edit in EDITS if edit != 'keep')}"
            raise UnknownNameError(f"without: no edit {name!r}{hint}")
    for name in options.get("also", ()):
        if name not in OFF:
            raise UnknownNameError(f"also: {name!r} is no edit that is off; these are: {', '.join(OFF)}")
    operation = options.get("operation", "")
    if operation and (operation not in OPERATIONS or OPERATIONS[operation].sources > 1):
        names = [name for name, one in OPERATIONS.items() if one.sources == 1]
        raise UnknownNameError(f"no operation {operation!r}{did_you_mean(operation, names) or _there_are(names)}")
    if not isinstance(bank, SkillBank):
        raise MasaError(f"the bank must be a SkillBank, not a {type(bank).__name__}; load_bank reads one from a path")
    for key in options.get("only") or ():
        bank.group(key)
    known = {skill.skill_id for group in bank.groups() for skill in group.skills}
    for identifier in options.get("pinned", ()):
        if identifier not in known:
            hint = did_you_mean(identifier, known) or "; `masa inspect` lists them"
            raise UnknownNameError(f"pinned: no skill {identifier!r} in this bank{hint}")


def _there_are(names: Collection[str]) -> str:
    return f"; there are: {', '.join(names)}"


def _texts(value: object) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str) and all(isinstance(v, str) for v in value)


def _is_facts(value: object) -> bool:
    from masa.facts import Facts

    return value is None or isinstance(value, Facts)


_TYPES: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "task": ("text", lambda value: isinstance(value, str)),
    "environment": ("text", lambda value: isinstance(value, str)),
    "facts": ("Facts (load_facts reads them) or None", _is_facts),
    "only": ("a list of group names, such as ['clean'], or None", lambda value: value is None or _texts(value)),
    "pinned": ("a list of skill ids, such as ['gen_001']", _texts),
    "without": ("a list of edits, such as ['shorten']", _texts),
    "also": (f"a list of edits, such as {[OFF[0]]}", _texts),
    "operation": ("text", lambda value: isinstance(value, str)),
    "sampling": ("a Sampling or None", lambda value: value is None or isinstance(value, Sampling)),
    "on_progress": ("a function or None", lambda value: value is None or callable(value)),
    "cancel": ("a function", callable),
}
"""What each of `Options` must be."""


class Rewriter:
    """A loaded artifact. Make one with `Rewriter.load`; close it, or use it as a context manager.

    Threads may share a rewriter; rewrites run one after the other. The weights are loaded on first need, so a
    rewrite that the cache answers costs no model.
    """

    def __init__(
        self,
        artifact: Artifact,
        open_backend: Callable[[], Backend],
        *,
        language: str | None = None,
        cache: RewriteCache | None = None,
        keep_warm: bool = False,
        cautious: bool | None = None,
        form: tuple[Artifact, Callable[[], Backend]] | None = None,
        form_reason: str = "",
        words: tuple[Artifact, Callable[[], Backend]] | None = None,
    ) -> None:
        """`form` is what runs instead of `artifact` and `form_reason` why that one or none does; `words` is what
        carries out operations in words; see `load`."""
        self.artifact = artifact
        self.form = form[0] if form else None
        self.form_reason = form_reason
        self.language = language or artifact.language
        if self.language not in LANGUAGES:
            raise BackendError(f"unknown output language {self.language!r}; known: {', '.join(LANGUAGES)}")
        # What was trained to write one language is as good as untrained in another.
        self.trained = artifact.trained and self.language == artifact.language
        self.cautious = not self.trained if cautious is None else cautious
        self._as_shipped = Engine(artifact, open_backend, self.language, keep_warm=keep_warm)
        self._engine = Engine(*form, self.language, keep_warm=keep_warm) if form else self._as_shipped
        self.words = artifact if self.language == "wording" else words[0] if words else None
        self._worder = self._engine if self.language == "wording" else None
        if words is not None:
            if words[0].language != "wording" or self.language != "plan":
                raise BackendError(f"{words[0].name} writes {words[0].language}; words go with plans, in `wording`")
            self._worder = Engine(*words, "wording", keep_warm=keep_warm)
        self._cache = cache
        self._adapter_key = ""
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        artifact: str | os.PathLike[str] | Artifact = "smollm2-135m",
        *,
        language: str | None = None,
        threads: int | None = None,
        gpu_layers: int = 0,
        provider: str | None = None,
        batch: int | None = None,
        cache: RewriteCache | bool = True,
        keep_warm: bool = False,
        cautious: bool | None = None,
        llama: Any = None,
        verify: bool = True,
        form: bool = True,
        words: str | os.PathLike[str] | Artifact | None = None,
    ) -> Rewriter:
        """Load an artifact by name or folder.

        Args:
            words: a second artifact, of the language "wording": it carries out what a plan chooses and no edit can do.
            language: "plan" or "text" to overrule the manifest, for experiments.
            threads: CPU threads; default all cores this process may use.
            gpu_layers: layers to put on a GPU by llama.cpp; -1 for all.
            provider: what ONNX Runtime computes an ONNX artifact with: cuda, directml, coreml, tensorrt or cpu; default
                the best one that is there.
            batch: most prompt tokens computed at once; memory grows with it. Default 512 in llama.cpp, 128 in ONNX
                Runtime, whose attention takes the square of it.
            cache: True for the user's cache folder, False for none, or a cache of yours.
            keep_warm: keep the KV memory between rewrites, so that the shared prefix is not computed again.
            cautious: let a plan choose only among edits that keep every statement; default for artifacts that
                were not trained to rewrite.
            llama: an open `llama_cpp.Llama` of yours whose weights are the artifact's base model; it is used
                and not closed.
            verify: check the sha256 of the artifact's files (remembered per file), and that a lent model is its
                base model; without that check a lent model's rewrites are not cached.
            form: run the form that `masa pull` made for this CPU, where there is one and the options above allow it.

        Raises:
            ArtifactError: if the artifact is missing, damaged or of another format.
        """
        found = artifact if isinstance(artifact, Artifact) else load_artifact(artifact, verify=verify)
        check_options(found, gpu_layers=gpu_layers, provider=provider, lent=llama is not None)
        if llama is not None and verify:
            check_lent(found, llama)
        elif llama is not None:
            cache = False
        if cache is True:
            from masa.folders import cache_dir

            cache = RewriteCache(cache_dir() / "rewrites")

        def opened(which: Artifact) -> Backend:
            from masa.backends import open_backend

            return open_backend(
                which, threads=threads, gpu_layers=gpu_layers, provider=provider, batch=batch, llama=llama
            )

        second = None
        if words is not None:
            second = words if isinstance(words, Artifact) else load_artifact(words, verify=verify)
        made, why = None, "as asked for"
        if llama is not None or gpu_layers or provider is not None:
            why = "a form takes no lent model, GPU layers or provider"
        elif form:
            from masa.forms.finding import choose_form

            made, why = choose_form(found)
        return cls(
            found,
            partial(opened, found),
            form=(made, partial(opened, made)) if made else None,
            form_reason=why,
            words=(second, partial(opened, second)) if second else None,
            language=language,
            cache=cache or None,
            keep_warm=keep_warm,
            cautious=cautious,
        )

    @property
    def synthetic(self) -> bool:
        """Whether it learned what to choose from stated rules, and not from results in an environment."""
        return self.trained and bool(self.artifact.training_data and self.artifact.training_data.synthetic)

    @property
    def controls(self) -> tuple[str, ...]:
        """The control tokens of its prompts, which no rewrite may contain."""
        return self.artifact.chat_template.controls

    def rewrite(self, bank: SkillBank, card: ModelCard, **options: Unpack[Options]) -> RewriteResult:
        """Rewrite a bank for the backbone that the card describes; see `Options`.

        A warning that the general skills got is left out of the other groups; `stream` yields each group as written.

        Raises:
            MasaError: if the bank, the card or an option is not what it must be (see `check_request`).
            BackendError, MissingExtraError: if the model cannot be loaded or computed.
        """
        started = time.perf_counter()
        results = {result.key: result for result in self.stream(bank, card, **options)}
        return self._result(bank, card, results, time.perf_counter() - started)

    def stream(
        self, bank: SkillBank, card: ModelCard, **options: Unpack[Options]
    ) -> Generator[GroupResult, None, None]:
        """Like `rewrite`, but yields each group as it is finished, cached ones first.

        The rewriter is busy from the first group on, until the generator is exhausted or closed.
        """
        return self._stream(self.works(bank, card, options), options)

    def _stream(self, works: list[Work], options: Options) -> Generator[GroupResult, None, None]:
        sampling = options.get("sampling") or Sampling()
        with self._exclusive():
            tracker = Tracker(len(works), options.get("on_progress"))
            pending: list[Work] = []
            for work in works:
                found = self._lookup(work, sampling)
                if found is None:
                    pending.append(work)
                else:
                    tracker.finish(found)
                    yield found
            cancel = options.get("cancel", lambda: False)
            results = self._run(pending, sampling, tracker, cancel, options.get("operation", ""))
            with contextlib.closing(results):
                for index, result in results:
                    self._keep(pending[index], result, sampling)
                    tracker.finish(result)
                    yield result

    def _run(
        self, works: list[Work], sampling: Sampling, tracker: Tracker, cancel: Callable[[], bool], operation: str
    ) -> Generator[tuple[int, GroupResult], None, None]:
        """(index into `works`, result) as groups finish: planned, and where there is a worder, worded."""
        if self.language != "wording" and not operation:
            planned = self._engine.run(
                works,
                sampling,
                tracker,
                cancel,
                known=lambda part: self._lookup(part, sampling, part=True),
                finished=lambda part, result: self._keep(part, result, sampling, part=True),
            )
            if self._worder is None:
                yield from planned
                return
            plans = {index: (result, plan_of(works[index], result)) for index, result in planned}
        else:
            kept = ((refuse(work, "", "kept"), forced_plan(work, operation)) for work in works)
            plans = dict(enumerate(kept))
        orders = {index: orders_of(works[index], plan) if plan else {} for index, (_, plan) in plans.items()}
        flat = [(index, number, order) for index, those in orders.items() for number, order in those.items()]
        if flat and self._worder is None:
            raise BackendError(
                f"{operation}: no edit does that to {flat[0][2].skills[0].title!r}; name a rewriter with words="
            )
        worded: list[GroupResult] = []
        if self._worder is not None:
            worded = reword(self._worder, [order for _, _, order in flat], sampling, tracker, cancel)
        for index, (result, plan) in plans.items():
            made = {number: one for (at, number, _), one in zip(flat, worded, strict=True) if at == index}
            if plan is not None and (made or operation):
                whole = with_rewordings(works[index], plan, orders[index], made, self.controls)
                result = replace(
                    whole,
                    raw=result.raw,
                    prompt_tokens=result.prompt_tokens,
                    tokens=whole.tokens + result.tokens,
                    steps=whole.steps + result.steps,
                    seconds=result.seconds,
                )
            yield index, result

    async def rewrite_async(self, bank: SkillBank, card: ModelCard, **options: Unpack[Options]) -> RewriteResult:
        """`rewrite` in a thread. Cancelling the awaiting task stops the decoding."""
        check_request(bank, options)
        return await asynchronous.run(lambda stopped: self.rewrite(bank, card, **_until(stopped, options)))

    async def stream_async(
        self, bank: SkillBank, card: ModelCard, **options: Unpack[Options]
    ) -> AsyncIterator[GroupResult]:
        """`stream` in a thread, group by group. Leaving the loop early stops the decoding."""
        check_request(bank, options)
        results = asynchronous.iterate(lambda stopped: self.stream(bank, card, **_until(stopped, options)))
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()

    def lazy(self, bank: SkillBank, card: ModelCard, **options: Unpack[Options]) -> LazyBank:
        """A view of the bank that rewrites a group when it is first asked for; takes `rewrite`'s options."""
        self.works(bank, card, options)  # a mistake is told here, not when a group is first needed
        return LazyBank(self, bank, card, options)

    def estimate(self, bank: SkillBank, card: ModelCard, **options: Unpack[Options]) -> Estimate:
        """Tokens and time that a rewrite would take, cache aside. Measures the machine for about a second."""
        sampling = options.get("sampling") or Sampling()
        works = self.works(bank, card, options)
        operation = options.get("operation", "")
        engine = self._worder if operation and self._worder is not None else self._engine
        with self._exclusive():
            shared: list[int] = []
            groups = []
            count = 0
            for work in works:
                parts: list[Part] = []
                for asked in self._asked(work, operation):
                    shared, some = engine.parts(asked)
                    parts += some
                fitting = [part for part in parts if not part.problem and part.work.request.group.skills]
                count += len(fitting)
                read = sum(len(part.own) for part in fitting)
                most = sum(part.work.most_tokens(len(part.own)) for part in fitting)
                problem = "; ".join(part.problem for part in parts if part.problem)
                groups.append(GroupEstimate(work.whole.key, len(work.whole), read, most, problem))
            slots = min(sampling.parallel or PARALLEL[self.language], max(1, count))
            speeds = measure(engine.backend(), slots)
        return Estimate(len(shared), tuple(groups), *speeds, seconds(len(shared), groups, speeds))

    def _asked(self, work: Work, operation: str) -> list[Work]:
        """What the model is asked about a group: one prompt; for an operation one a skill that no edit changes."""
        if not operation:
            return [work]
        orders = orders_of(work, forced_plan(work, operation)).values()
        return [order.work() for order in orders] if self._worder is not None else []

    def pending(self, bank: SkillBank, card: ModelCard, **options: Unpack[Options]) -> list[str]:
        """The keys of the groups that a rewrite would have to ask the model about: those not in the cache."""
        sampling = options.get("sampling") or Sampling()
        return [work.whole.key for work in self.works(bank, card, options) if self._lookup(work, sampling) is None]

    def use_adapter(self, path: str | os.PathLike[str] | None, *, scale: float = 1.0) -> None:
        """Swap the LoRA adapter without loading the base again; None for the bare base model.

        A form has its adapter merged into it: from here on the artifact runs as it was shipped.

        Raises:
            BackendError: if the file is no adapter for this base.
        """
        from masa.checksums import sha256_file
        from masa.files import read_bytes

        with self._exclusive():
            file = Path(path) if path is not None else None
            if file is not None and not file.is_file():
                read_bytes(file)  # says what is wrong with it
            key = f"{sha256_file(file)}*{scale}" if file else "none"
            self._as_shipped.use_adapter(file, scale)
            self._adapter_key = key
            if self._engine is not self._as_shipped:
                self._engine.close()
                self._engine, self.form = self._as_shipped, None
                self.form_reason = "another adapter is attached"

    def close(self) -> None:
        """Free the model and its memory. Closing twice is allowed; a rewrite in another thread is waited for."""
        if self._owner == threading.get_ident():
            # In the middle of a stream of this thread: its next step says that the rewriter is closed.
            self._closed = True
            self._close()
            return
        with self._lock:
            self._closed = True
            self._close()

    def _close(self) -> None:
        self._engine.close()
        if self._worder is not None:
            self._worder.close()

    def __enter__(self) -> Rewriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One rewrite at a time. The lock is no RLock: a generator may be closed by another thread."""
        if self._owner == threading.get_ident():
            raise BackendError("this thread is in the middle of a stream of this rewriter; exhaust or close it first")
        with self._lock:
            if self._closed:
                raise BackendError(f"the rewriter {self.artifact.name} is closed; load it again")
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def works(self, bank: SkillBank, card: ModelCard, options: Options) -> list[Work]:
        """The groups to rewrite as pieces of work, empty ones left out.

        Raises:
            MasaError: see `check_request`.
        """
        check_request(bank, options)
        if not hasattr(card, "fields"):
            raise MasaError(f"the card must be a ModelCard, not {card!r}; resolve_backbone finds one by a name")
        only = options.get("only")
        groups = [bank.group(key) for key in dict.fromkeys(only)] if only is not None else list(bank.groups())
        pinned = frozenset(options.get("pinned", ()))
        operation = options.get("operation", "")
        off = switched_off(options)
        if self.cautious and self.trained and not operation:
            # What was trained to write an edit writes another one where it may not.
            off |= frozenset(SWITCHES) - frozenset(CAUTIOUS_EDITS)
        if self.language == "text" and (options.get("without") or options.get("also")):
            raise MasaError("without and also go with plans; a rewriter that writes text has no edits to switch")
        request = Request(
            Group(None, ()),
            card.fields(),
            options.get("task", ""),
            options.get("environment", ""),
            options.get("facts"),
        )
        if self.synthetic:  # no rule asks what task and environment are called, so their names must not decide
            request = Request(Group(None, ()), as_read(card.fields(), off), facts=options.get("facts"))
        if self.language == "wording" and not operation:
            raise MasaError(f"{self.artifact.name} words what a plan chooses; name an operation, or give it as words=")
        # A task is read with the general skills and those of its type: an example of another type misleads.
        typed = not operation and any(len(group) for group in bank.groups() if group.key != GENERAL)
        # A forced operation is a plan that nobody has to write.
        language = "plan" if operation else self.language
        return [
            prepare(
                replace(request, group=group, operation=operation),
                pinned,
                language,
                cautious=self.cautious and not self.trained and not operation,
                without=off | {"example"} if typed and group.key == GENERAL else off,
                worded=self._worder is not None,
            )
            for group in groups
            if len(group)
        ]

    def _key(self, work: Work, sampling: Sampling, part: bool) -> str:
        """Everything that the outcome of one group depends on; how many run side by side is not among it.

        A part of a group is planned and not worded yet.
        """
        return cache_key(
            {
                "masa": __version__,
                "rules": _RULES,
                "artifact": (self.form or self.artifact).fingerprint,
                "adapter": self._adapter_key,
                **({"words": self.words.fingerprint, "part": part} if self.words else {}),
                "temperature": sampling.temperature,
                "seed": sampling.seed if sampling.temperature else 0,
                "draft": 0 if sampling.temperature else sampling.draft,
                "forced": sampling.forced,
                **work.identity(),
            }
        )

    def _keep(self, work: Work, result: GroupResult, sampling: Sampling, *, part: bool = False) -> None:
        if self._cache and result.status != "cancelled":
            self._cache.put(self._key(work, sampling, part), to_cache(result))

    def _lookup(self, work: Work, sampling: Sampling, *, part: bool = False) -> GroupResult | None:
        if not work.request.group.skills:
            return refuse(work, "every skill is pinned", "kept")
        by_rules = self.synthetic and self.language == "plan" and not work.request.operation
        if by_rules and nothing_to_do(work.request.card):
            return refuse(work, NO_WEAKNESSES, "kept")
        value = self._cache.get(self._key(work, sampling, part)) if self._cache else None
        return from_cache(work, value) if value is not None else None

    def _result(
        self, bank: SkillBank, card: ModelCard, results: Mapping[str, GroupResult], seconds: float
    ) -> RewriteResult:
        ordered = without_repeats([results[g.key] for g in bank.groups() if g.key in results], bank.general)
        changed = {result.key: result.output for result in ordered if result.output is not result.source}
        return RewriteResult(
            bank=bank.with_groups(changed) if changed else bank,
            groups=ordered,
            artifact=self.artifact.name,
            artifact_fingerprint=self.artifact.fingerprint,
            form=self.form.quantization if self.form else None,
            form_reason=self.form_reason,
            trained=self.trained,
            synthetic=self.synthetic,
            language=self.language,
            card=card.name,
            card_fingerprint=card.fingerprint,
            seconds=seconds,
            tokens=sum(result.tokens for result in ordered if not result.cached),
        )


def _until(stopped: Callable[[], bool], options: Options) -> Options:
    """The same options, cancelled also once `stopped`."""
    outer = options.get("cancel", lambda: False)
    return {**options, "cancel": lambda: stopped() or outer()}


class LazyBank:
    """A bank whose groups are rewritten when they are first asked for; made by `Rewriter.lazy`."""

    def __init__(self, rewriter: Rewriter, bank: SkillBank, card: ModelCard, options: Options) -> None:
        self._rewriter = rewriter
        self._bank = bank
        self._card = card
        self._options = options
        self._results: dict[str, GroupResult] = {}
        self._lock = threading.Lock()

    def group(self, key: str) -> Group:
        """The rewritten group called `key`."""
        return self.results(key)[key].output

    def bank(self, *keys: str) -> SkillBank:
        """The bank with these groups rewritten and the others as they were."""
        results = self.results(*keys)
        return self._bank.with_groups({key: result.output for key, result in results.items()})

    def results(self, *keys: str) -> Mapping[str, GroupResult]:
        """The accounts of these groups; those not rewritten yet are, together."""
        with self._lock:
            missing = [key for key in keys if key not in self._results]
            if missing:
                options: Options = {**self._options, "only": missing}
                result = self._rewriter.rewrite(self._bank, self._card, **options)
                # A cancelled group is asked for again next time.
                self._results.update({g.key: g for g in result.groups if g.status != "cancelled"})
                return {**{g.key: g for g in result.groups}, **self._results}
            return dict(self._results)
