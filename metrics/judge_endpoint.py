"""Asking an OpenAI-compatible endpoint, several questions at a time, until all are answered or it fails."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

REFUSALS = 5
"""After so many refused requests and not one answered, the fault is taken to be in the settings, not in a question."""

NO_KEY = "none"
"""Sent where no key is set: local servers ask for none, and the client insists on one."""


class Reply(NamedTuple):
    """What a model said, and what it counted, None where the endpoint does not say."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


class Refused(ValueError):
    """The endpoint will not answer this one request: too long, or filtered."""


class EndpointFailed(OSError):
    """The endpoint cannot be reached, asks for a key, or does not speak the protocol."""


Ask = Callable[[str], Reply]


@dataclass(frozen=True)
class Endpoint:
    """Where the judge is and how it is asked.

    Attributes:
        url: up to and with ``/v1``.
        settings: fields of the request's body beside ``model`` and ``messages``.
        key_variable: the environment variable that holds the key; it is neither written nor shown.
        retries: how often a request is repeated, after 0.5, 1, 2 ... 8 s or what the endpoint asks for, upon status
            408, 409, 429, 5xx, a broken connection or a timeout.
        timeout: seconds a request may take.
    """

    url: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    key_variable: str = "OPENAI_API_KEY"
    retries: int = 5
    timeout: float = 60.0


def asker(endpoint: Endpoint) -> Ask:
    """A function that asks one question; safe to call from several threads.

    It raises `Refused` and `EndpointFailed`.

    Raises:
        ImportError: the client openai is not installed.
    """
    try:
        openai: Any = import_module("openai")
    except ImportError:
        raise ImportError("asking a judge needs the client openai: pip install 'eval-ext[judge]'") from None
    client = openai.OpenAI(
        base_url=base_url(endpoint.url),
        api_key=os.environ.get(endpoint.key_variable) or NO_KEY,
        max_retries=endpoint.retries,
        timeout=endpoint.timeout,
    )

    def ask(prompt: str) -> Reply:
        try:
            made = client.chat.completions.create(
                model=endpoint.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=dict(endpoint.settings),
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as problem:
            raise Refused(_said(problem)) from None
        except openai.NotFoundError as problem:
            where = f"does {endpoint.url} end in /v1, and is there such a model?"
            raise EndpointFailed(f"{_said(problem)}; {where}") from None
        except openai.AuthenticationError as problem:
            raise EndpointFailed(f"{_said(problem)}; set {endpoint.key_variable}") from None
        except (openai.OpenAIError, ValueError) as problem:  # ValueError: a body that is not JSON
            raise EndpointFailed(_said(problem)) from None
        return _reply(made)

    return ask


def base_url(url: str) -> str:
    """The address that the client extends by ``/chat/completions``, which may be there already."""
    return url.rstrip("/").removesuffix("/chat/completions")


def _reply(made: Any) -> Reply:
    try:
        text = made.choices[0].message.content
    except (AttributeError, IndexError, TypeError):
        raise EndpointFailed(f"it answered without choices[0].message.content: {str(made)[:200]!r}") from None
    usage = getattr(made, "usage", None)
    return Reply(text or "", getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))


def _said(problem: Exception) -> str:
    text = " ".join(str(problem).split()) or "no reason given"
    cause = problem.__cause__
    return f"{type(problem).__name__}: {text[:300]}" + (f" ({cause})" if cause is not None and str(cause) else "")


def ask_all(prompts: Sequence[str], ask: Ask, *, workers: int) -> Iterator[tuple[str, Reply | Refused]]:
    """Ask every prompt once, at most `workers` at a time, and yield each as it is answered or refused, in any order.

    When the endpoint fails, nothing more is sent, what is under way is waited for and yielded, and then the failure is
    raised.

    Raises:
        EndpointFailed: the endpoint failed, or has refused `REFUSALS` requests and answered none.
    """
    left = iter(prompts)
    failure: EndpointFailed | None = None
    answered = refused = 0
    with ThreadPoolExecutor(workers) as pool:
        flying: dict[Future[Reply], str] = {pool.submit(ask, p): p for p in itertools.islice(left, workers)}
        while flying:
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                prompt = flying.pop(future)
                try:
                    reply: Reply | Refused = future.result()
                    answered += 1
                except Refused as problem:
                    reply, refused = problem, refused + 1
                    if not answered and refused == REFUSALS:
                        failure = EndpointFailed(f"it refused the first {REFUSALS} requests: {problem}")
                except EndpointFailed as problem:
                    failure = failure or problem
                    continue
                yield prompt, reply
                following = next(left, None) if failure is None else None
                if following is not None:
                    flying[pool.submit(ask, following)] = following
    if failure is not None:
        raise failure
