"""What an answer makes of a text: a sound rewriting, a doubtful one, or none at all. Cheap checks, no second model."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gradsim_assets.core.datasets.paraphrasing.answer_store import REJECTED, Answer, AnswerStore
from gradsim_assets.core.datasets.paraphrasing.completion import ending
from gradsim_assets.core.datasets.paraphrasing.envelope import opened, without_reasoning
from gradsim_assets.core.datasets.paraphrasing.options import SYSTEM_PROMPT, ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.refusals import refuses, refuses_to_rewrite
from gradsim_assets.core.datasets.paraphrasing.request import Request
from gradsim_assets.core.errors import InputError

#: How whole answers end, at one server or another.
_WHOLE = {
    "stop",
    "eos",
    "eos_token",
    "end_turn",
    "stop_sequence",
    "stop_token",
    "stop_str",
    "complete",
    "completed",
    "done",
    "end",
}
_CUT = {"length", "max_tokens", "max_length", "max_new_tokens", "model_length", "max_output_tokens", "token_limit"}
_CUT |= {"max_completion_tokens", "model_context_window_exceeded"}
_FILTERED = {"content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii"}
_FILTERED |= {"sensitive", "guardrail_intervened"}
_CALLED = {"tool_calls", "tool_call", "tool_use", "function_call", "malformed_function_call"}

_IMPERATIVES = (
    "add|advise|analy[sz]e|answer|assist|begin|brainstorm|break|build|calculate|check|choose|clarify|classify|come|compare|compile|complete|"
    "compose|compute|convert|correct|craft|create|define|demonstrate|describe|design|determine|develop|devise|discuss|"
    "draft|draw|edit|elaborate|enumerate|evaluate|explain|express|extract|fill|find|fix|formulate|generate|give|help|"
    "identify|illustrate|imagine|implement|improve|list|make|name|offer|outline|pen|plan|prepare|present|produce|propose|"
    "provide|pick|put|recommend|remove|render|reply|rewrite|say|share|show|sketch|solve|spell|start|state|suggest|summari[sz]e|take|teach|tell|turn|"
    "translate|use|walk|work|write"
)
_QUESTION_WORDS = "are|can|could|did|do|does|has|have|how|is|may|must|should|was|were|what|when|where|which|who|whom|whose|why|will|would"

#: A text that asks or orders in English, by its first word or the last sentence's.
_ASKS = re.compile(
    rf"\W*(please\W+)?({_IMPERATIVES}|{_QUESTION_WORDS})\b|.*[.!?:\n]\s+({_QUESTION_WORDS})\b[^.?!]*\?\W*$",
    re.IGNORECASE | re.DOTALL,
)

#: Signs that a text still asks or orders: a question, an imperative that opens a sentence, someone who speaks for himself.
_STILL_ASKS = re.compile(
    rf"\?|^\W*(how|what|when|where|which|who|why)\b|\b(please|i|me|my|we|us|our)\b|(^|[.!:;,\n]\s{{0,9}}|\b(and|then|to|you)\s{{1,9}})\W{{0,9}}({_IMPERATIVES})\b",
    re.IGNORECASE,
)

#: Frequent words of languages that share a script.
_WORDS = {
    "en": "the and of to is in that for with you this are it be not have what how from can",
    "de": "der die das und ist nicht ein eine ich sie mit für auf den zu von wie was auch sind",
    "fr": "le la les de des est une dans pour que qui pas vous et avec sur ce du il sont au",
    "es": "el la los las de una que es en por para con no del se como más pero su qué está y",
    "it": "il la gli che di è una per non con del della sono come più questo nel ma anche si lo",
    "pt": "os de uma que não para com em por mais como do da dos das você são seu na no é",
    "nl": "de het een van en is dat niet op voor met zijn die te aan wat hoe ook maar bij",
}
_BY_WORD: dict[str, list[str]] = {}
for _language_name, _words in _WORDS.items():
    for _word in _words.split():
        _BY_WORD.setdefault(_word, []).append(_language_name)

#: A whole sentence of frequent words tells a language; fewer may be a name or a quotation.
_FEW_WORDS = 4

#: An answer is between these multiples of the text's length; short texts may grow by some words.
_SHORTEST, _LONGEST, _GRACE = 0.35, 2.5, 60

#: A passage of so many characters is not repeated by chance.
_PASSAGE = 40

#: So many texts without anything but reasoning say that the limit is too low for this model.
_ENOUGH_TEXTS = 4

#: The fault of an answer that is cut off before it begins.
_REASONING_FILLS = "reasoning fills max_completion_tokens"


@dataclass(frozen=True)
class Verdict:
    """What an answer makes of a text.

    `text` is the rewriting out of its envelope; None where there is none. `fault` says why there is none, or what is doubtful
    about it; None for a sound one.
    """

    text: str | None
    fault: str | None


@lru_cache(maxsize=10_000)  # asked for again as answers are stored, counted and put together
def judged(text: str, answer: Answer, role: str, system_prompt: str = SYSTEM_PROMPT) -> Verdict:
    """The verdict on an answer.

    There is no rewriting in an answer that is `rejected`, `filtered`, `cut` (be it within its reasoning), nothing but
    `reasoning`, `unfinished` (a tool call), `refusal`, `empty`, `garbled` (broken characters), `identical` with the text, or an
    echo of the `instructions`. Doubtful are `envelope (...)`, `like a refusal`, an `echo` of the whole text with something added
    (tables and code leave little else), another `language`, an unlikely `length`, `answered` for a user's question or
    instruction that was followed instead of rewritten, and `ended (...)` for an unknown finish reason.
    """
    if nothing := _unfinished(text, answer):
        return Verdict(None, nothing)
    rewriting, envelope = opened(answer.text, text)
    if nothing := _nothing(text, answer.text, rewriting, system_prompt):
        return Verdict(None, nothing)
    doubt = f"envelope ({envelope})" if envelope else _doubt(text, rewriting, role)
    known = ending(answer.finish_reason) in _WHOLE
    return Verdict(rewriting, doubt or (None if known else f"ended ({answer.finish_reason[:40]})"))


def best(request: Request, attempts: Sequence[Answer], options: ParaphraserOptions) -> Verdict:
    """The first sound rewriting; else the last doubtful one; else none, with the fault of the last attempt."""
    verdicts = [_verdict(request, answer, options) for answer in attempts]
    sound = [verdict for verdict in verdicts if verdict.fault is None]
    doubtful = [verdict for verdict in verdicts if verdict.text is not None]
    return (sound[:1] or doubtful[-1:] or verdicts[-1:])[0]


def is_final(request: Request, answer: Answer, options: ParaphraserOptions) -> bool:
    """Whether no further attempt is due: the answer is sound, another would end alike, or the text is not taken at all."""
    fault = _verdict(request, answer, options).fault
    return answer.finish_reason == REJECTED or fault is None or fault.startswith("ended")


def is_enough(request: Request, attempts: Sequence[Answer], options: ParaphraserOptions) -> bool:
    """Whether there is a final answer among the attempts, or there are all that there are to be.

    An answer that was cut off by a lower limit than the one in force does not count.
    """
    spent = [answer for answer in attempts if not _void(request, answer, options)]
    return len(spent) >= options.attempts or any(is_final(request, answer, options) for answer in attempts)


def is_settled(request: Request, options: ParaphraserOptions, store: AnswerStore) -> bool:
    """Whether the store holds enough attempts."""
    return is_enough(request, store.attempts(request.key), options)


def only_reasoning(requests: Sequence[Request], options: ParaphraserOptions, store: AnswerStore) -> InputError | None:
    """The error that tells of a model whose reasoning fills the limit in all that was answered so far, and in enough texts."""
    answered = 0
    for request in requests:
        counted = [one for one in store.attempts(request.key) if not _void(request, one, options)]
        faults = [_verdict(request, one, options).fault for one in counted if one.finish_reason != REJECTED]
        if any(fault != _REASONING_FILLS for fault in faults):
            return None
        answered += bool(faults)
    if not answered or (answered < _ENOUGH_TEXTS and not all(is_settled(one, options, store) for one in requests)):
        return None
    most = max(request.completion_limit(options) for request in requests)
    return InputError(
        f"the model {options.model} at {options.place} fills max_completion_tokens (up to {most}) with its reasoning and gives "
        f"no answer to any of {answered} texts; raise reasoning_tokens in [paraphraser], or switch its reasoning off."
    )


def _verdict(request: Request, answer: Answer, options: ParaphraserOptions) -> Verdict:
    return judged(request.text, answer, request.role, options.system_prompt)


def _void(request: Request, answer: Answer, options: ParaphraserOptions) -> bool:
    cut = _verdict(request, answer, options).fault in ("cut", _REASONING_FILLS)
    return cut and answer.limit is not None and answer.limit < request.completion_limit(options)


def _unfinished(text: str, answer: Answer) -> str | None:
    if answer.finish_reason == REJECTED:
        return f"rejected ({answer.refusal})"
    reason = ending(answer.finish_reason)
    if answer.refusal or reason == "refusal":
        return "refusal"
    if reason in _FILTERED:
        return "filtered"
    if reason in _CALLED:
        return "unfinished"
    if reason in _WHOLE:
        return None
    # A server with words of its own may still have run into the limit.
    if reason in _CUT or (answer.limit is not None and answer.completion_tokens >= answer.limit):
        return "cut" if without_reasoning(answer.text, text)[0].strip() else _REASONING_FILLS
    return None


def _nothing(text: str, answer: str, rewriting: str, system_prompt: str) -> str | None:
    """Why there is no rewriting in a whole answer."""
    if not re.search(r"\w", rewriting) and (re.search(r"\w", text) or not rewriting.strip()):
        return "reasoning" if answer.strip() and not without_reasoning(answer, text)[0].strip() else "empty"
    if any(mark in rewriting and mark not in text for mark in ("\0", "\ufffd")) or re.search(
        "[\ud800-\udfff]", rewriting
    ):
        return "garbled"
    plain, own = _plain(rewriting), _plain(text)
    if plain == own or _letters(plain) == _letters(own) != "":
        return "identical"
    if refuses_to_rewrite(rewriting, text):
        return "refusal"
    told = (sentence for sentence in re.split(r"(?<=[.:;!?])\s", _plain(system_prompt)) if len(sentence) >= _PASSAGE)
    return "instructions" if any(sentence in plain and sentence not in own for sentence in told) else None


def _doubt(text: str, rewriting: str, role: str) -> str | None:
    if refuses(rewriting) and not refuses(text):
        return "like a refusal"
    if _language_changed(text, rewriting):
        return "language"
    if not _SHORTEST * len(text) <= len(rewriting) <= _LONGEST * len(text) + _GRACE:
        return "length"
    if len(_plain(text)) >= _PASSAGE and _plain(text) in _plain(rewriting):
        return "echo"
    if role == "user" and _ASKS.match(text) and not _STILL_ASKS.search(rewriting):
        return "answered"
    return None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _letters(plain: str) -> str:
    """Letters and digits alone: quotes and punctuation make no paraphrase."""
    return re.sub(r"[\W_]+", "", plain)


def _language_changed(text: str, answer: str) -> bool:
    scripts = _script(text), _script(answer)
    if None not in scripts and scripts[0] != scripts[1]:
        return True
    languages = _language(text), _language(answer)
    return None not in languages and languages[0] != languages[1]


def _script(text: str) -> str | None:
    """The script of most letters (LATIN, CYRILLIC, CJK, ...); None where none clearly leads."""
    letters = [character for character in text[:1000] if character.isalpha()]
    if len(letters) < 10:
        return None
    if text[:1000].isascii():
        return "LATIN"
    counts = Counter("LATIN" if c < "\u0250" else unicodedata.name(c, "?").split()[0].split("-")[0] for c in letters)
    # Japanese mixes its own two with Chinese characters.
    for kana in ("HIRAGANA", "KATAKANA"):
        counts["CJK"] += counts.pop(kana, 0)
    script, count = counts.most_common(1)[0]
    return script if count > 0.7 * len(letters) else None


def _language(text: str) -> str | None:
    """The language whose frequent words clearly lead; None where none does."""
    words = re.findall(r"[^\W\d_]+", text[:2000].lower())
    hits = Counter(language for word in words for language in _BY_WORD.get(word, ()))
    scores = sorted(((hits[language], language) for language in _WORDS), reverse=True)
    (best, language), (second, _) = scores[:2]
    return language if best >= _FEW_WORDS and best > 1.5 * second else None
